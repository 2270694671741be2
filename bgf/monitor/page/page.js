// The status page's script: takes server-sent events, draws; asks nothing else, changes nothing.
// Everything that comes is put in as text, never as markup.
"use strict";

const KEPT = 120; // samples of a line: two minutes
const LATE_MS = 5000;
const lines = new Map(); // node -> [{at, forwarded, dropped}]
const sound = new Map(); // group -> [{expected, lost}]
let heardAt = 0;

const by = (id) => document.getElementById(id);

function el(name, attributes, ...inner) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  for (const one of inner.flat()) if (one !== null && one !== undefined) made.append(one);
  return made;
}

function svg(name, attributes, ...inner) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  for (const one of inner) made.append(one);
  return made;
}

function count(value) {
  if (value === null || value === undefined) return "–";
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

function age(seconds) {
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function facts(...pairs) {
  const list = el("dl");
  for (const [name, value, look] of pairs) {
    if (value === null || value === undefined) continue;
    list.append(el("dt", {}, name), el("dd", { class: look || null }, value));
  }
  return list;
}

function keep(map, name, sample) {
  const kept = map.get(name) || [];
  const last = kept.at(-1);
  // A process that began anew counts from zero.
  if (last && Object.keys(sample).some((key) => sample[key] < last[key])) kept.length = 0;
  kept.push(sample);
  if (kept.length > KEPT + 1) kept.shift();
  map.set(name, kept);
  return kept;
}

function rates(samples, key) {
  const found = [];
  for (let i = 1; i < samples.length; i++) {
    const passed = (samples[i].at - samples[i - 1].at) / 1000;
    if (passed > 0) found.push((samples[i][key] - samples[i - 1][key]) / passed);
  }
  return found;
}

function recently(values) {
  const last = values.slice(-3);
  return last.length ? last.reduce((a, b) => a + b, 0) / last.length : null;
}

function spark(...series) {
  const drawn = svg("svg", { class: "spark", viewBox: `0 0 ${KEPT} 30`, preserveAspectRatio: "none" });
  drawn.setAttribute("aria-hidden", "true");
  const most = Math.max(1, ...series.flatMap(([values]) => values));
  for (const [values, look] of series) {
    if (values.length < 2) continue;
    const x0 = KEPT - values.length;
    const d = values.map((v, i) => `${i ? "L" : "M"}${x0 + i} ${(28 - (26 * v) / most).toFixed(1)}`);
    drawn.append(svg("path", { d: d.join(""), class: look }));
  }
  return drawn;
}

function loss(group) {
  const kept = sound.get(group) || [];
  if (kept.length < 2) return null;
  const [first, last] = [kept[Math.max(0, kept.length - 31)], kept.at(-1)];
  const expected = last.expected - first.expected;
  return expected > 0 ? (100 * (last.lost - first.lost)) / expected : null;
}

function groupCard(group) {
  keep(sound, group.group, { expected: group.expected, lost: group.lost });
  const served = group.owner && group.active.length === 1 && group.active[0] === group.owner;
  const ready = group.standby.filter((one) => one.ready && !one.carries.length);
  const lost = loss(group.group);
  const look = !served ? "bad" : !ready.length || group.hanging || group.to_restore ? "odd" : "good";
  const stand = group.standby.map((one) => {
    const whole = one.pinholes >= group.pinholes;
    const word = !one.ready ? "not ready" : !whole ? `behind (${count(one.pinholes)} pinholes)`
      : one.carries.length ? `carries ${one.carries.join(", ")}` : "ready";
    return el("span", { class: word === "ready" ? "good" : one.carries.length ? "quiet" : "odd" },
      `${one.node} ${word}`);
  });
  const between = stand.flatMap((one, i) => (i ? [", ", one] : [one]));
  return el("article", { class: `card ${look}` },
    el("h3", {}, group.group,
      el("span", { class: "to" }, "→ ", el("b", {}, group.owner || "nobody")),
      el("span", { class: `end ${served ? "quiet" : "bad"}` },
        served ? `epoch ${group.epoch}` : group.owner ? "taking over" : "not served")),
    facts(
      ["calls", count(group.calls)],
      ["flows", count(group.pinholes)],
      ["ports used", group.ports ? `${((100 * group.ports_used) / group.ports).toFixed(1)} %` : null],
      ["lost", group.streams && lost !== null ? `${lost.toFixed(2)} %` : null, lost > 1 ? "odd" : null],
      ["MOS, at best", group.mos === null || group.mos === undefined ? null : group.mos.toFixed(2),
        group.mos < 3.6 ? "odd" : null],
      ["without media", group.hanging ? count(group.hanging) : null, "odd"],
      ["to restore", group.to_restore ? count(group.to_restore) : null, "odd"],
      ["standby", between.length ? el("span", {}, between) : "none", between.length ? null : "bad"],
    ));
}

function nodeCard(node, at) {
  const kept = keep(lines, node.node, { at, forwarded: node.forwarded, dropped: node.dropped });
  const [out, dropped] = [rates(kept, "forwarded"), rates(kept, "dropped")];
  const [now, drops] = [recently(out), recently(dropped)];
  const silent = Object.values(node.processes).every((word) => word === "silent");
  const sick = Object.entries(node.processes).filter(([, word]) => word !== "ready");
  const look = sick.length ? "bad" : node.conditions.length || node.drained ? "odd" : "good";
  const word = silent ? "silent" : sick.length ? sick.map(([p, w]) => `${p} ${w}`).join(", ")
    : node.drained ? "drained" : node.carries.length ? "carries " + node.carries.join(", ") : "standby";
  const why = [...node.conditions, ...node.why];
  return el("article", { class: `card ${look}` },
    el("h3", {}, node.node,
      el("span", { class: "to" }, node.state.leads ? "leads the state plane" : ""),
      el("span", { class: `end ${sick.length ? "bad" : node.drained ? "odd" : "good"}` }, word)),
    silent ? null : facts(
      ["packets/s", now === null ? "…" : count(now)],
      ["dropped/s", drops === null ? "…" : count(drops), drops > 1 ? "odd" : null],
      ["pinholes", `${count(node.pinholes)} of ${count(node.pinholes_max)}`],
      ["lease left", `${(node.lease_left_ms / 1000).toFixed(1)} s of ${(node.lease_ms / 1000).toFixed(1)} s`,
        node.lease_left_ms * 4 < node.lease_ms ? "odd" : null],
      ["slow XDP", node.slow.length ? node.slow.join(", ") : null, "quiet"],
      ["memory", `${count(node.memory_mb)} MB`],
    ),
    silent ? null : spark([out, "out"], [dropped.some((one) => one > 0) ? dropped : [], "lost"]),
    why.length ? el("p", { class: "note" }, why.join("; ")) : null);
}

function steps(timeline, outage) {
  const known = Object.entries(timeline).filter(([, at]) => at !== null);
  if (!known.length) return null;
  const names = { detected: "detected", decided: "decided", armed: "armed", announced: "announced", first_packet: "first packet" };
  const end = Math.max(outage || 0, ...known.map(([, at]) => at)) * 1.12 || 1;
  const rows = [...known.map(([name, at]) => [names[name] || name, at, "bar"]),
    ...(outage ? [["longest silence", outage, "bar last"]] : [])];
  const drawn = svg("svg", { class: "steps", viewBox: `0 0 420 ${rows.length * 19 + 4}`, role: "img" });
  drawn.append(svg("title", {}, "milliseconds after the power cut"));
  rows.forEach(([name, at, look], i) => {
    const y = i * 19 + 2;
    const wide = Math.max(2, (270 * at) / end);
    drawn.append(
      svg("text", { x: 0, y: y + 12, class: "name" }, name),
      svg("rect", { x: 100, y: y + 3, width: wide.toFixed(1), height: 11, rx: 2, class: look }),
      svg("text", { x: 106 + wide, y: y + 12 }, `${at.toFixed(at < 10 ? 1 : 0)} ms`));
  });
  return drawn;
}

function drillCard(drill) {
  const outage = drill.outage_ms;
  const bad = drill.rows.filter((row) => row.met === false);
  return el("article", { class: `card ${drill.ok ? "good" : "bad"}` },
    el("h3", {}, drill.name,
      el("span", { class: "to" }, `${age(Date.now() / 1000 - drill.at_s)} ago`.replace("now ago", "just now")),
      el("span", { class: `end ${drill.ok ? "good" : "bad"}` }, drill.ok ? "passed" : "failed")),
    facts(
      ["flows listened to", drill.flows ? count(drill.flows) : null],
      ["calls dropped", drill.calls.started === undefined ? null
        : `${count(drill.calls.dropped)} of ${count(drill.calls.started)}`],
      ["silence, mean", outage.mean === undefined ? null : `${count(outage.mean)} ms`],
      ["silence, longest", outage.max === undefined ? null : `${count(outage.max)} ms`],
    ),
    steps(drill.timeline_ms, outage.max),
    drill.problems.map((line) => el("p", { class: "note bad" }, line)),
    bad.map((row) => el("p", { class: "note bad" }, `${row.name}: ${row.value} ${row.unit}, goal ${row.goal}`)),
    drill.why.filter(Boolean).map((line) => el("p", { class: "note" }, line)),
    drill.plot ? el("details", {}, el("summary", {}, "the plot"),
      el("img", { src: drill.plot, alt: `silence of every flow in ${drill.name}`, loading: "lazy" })) : null);
}

const happened = {
  decided: "takeover", condition: "observed", "given-up": "move given up", failed: "failed",
  conflict: "conflict", drained: "drained", undrained: "undrained", links: "links",
  "registry-lost": "registry lost", "registry-back": "registry back",
};

function eventLine(event) {
  const what = event.event === "decided" && !event.last ? "first owner of"
    : happened[event.event] || event.event;
  const where = event.group ? ` ${event.group}${event.epoch ? `, epoch ${event.epoch}` : ""}` : "";
  return el("li", {}, el("time", {}, age(event.age_s)),
    el("span", {}, el("b", {}, what + where), event.reason ? ` (${event.reason})` : "", ": ", event.sentence));
}

let drawnDrills = "";

function draw(found) {
  const trouble = [
    ...found.problems.map((line) => [line, "bad"]),
    ...found.warnings.map((line) => [line, "odd"]),
    ...found.conditions.map((one) => [`${one.node}: ${one.state}: ${one.sentence}`, "odd"]),
  ];
  const verdict = by("verdict");
  const word = found.problems.length
    ? `${found.problems.length} problem${found.problems.length > 1 ? "s" : ""}`
    : trouble.length ? "served, with warnings" : "all is well";
  const look = found.problems.length ? "bad" : trouble.length ? "odd" : "good";
  if (verdict.textContent !== word) verdict.textContent = word;
  verdict.className = `verdict ${look}`;
  document.title = `${look === "good" ? "✓" : look === "odd" ? "!" : "✗"} Border gateways: ${word}`;
  const total = (list, key) => list.reduce((sum, one) => sum + (one[key] || 0), 0);
  by("groups").replaceChildren(...found.groups.map(groupCard));
  by("nodes").replaceChildren(...found.nodes.map((node) => nodeCard(node, found.at_ms)));
  const packets = found.nodes.map((node) => recently(rates(lines.get(node.node), "forwarded")) || 0);
  by("sums").replaceChildren(
    el("b", {}, count(total(found.groups, "calls"))), " calls  ",
    el("b", {}, count(total(found.groups, "pinholes"))), " flows  ",
    el("b", {}, count(packets.reduce((a, b) => a + b, 0))), " packets/s");
  by("trouble").hidden = !trouble.length;
  by("lines").replaceChildren(...trouble.map(([line, kind]) => el("li", { class: kind }, line)));
  by("events").replaceChildren(...(found.events.length ? found.events.map(eventLine)
    : [el("li", {}, el("time", {}, ""), el("span", { class: "quiet" }, "nothing since the processes began"))]));
  by("drillbox").hidden = !found.drills.length;
  const drills = JSON.stringify(found.drills);
  if (drills !== drawnDrills) { // drawn anew only when there is news: an open plot stays open
    drawnDrills = drills;
    by("drills").replaceChildren(...found.drills.map(drillCard));
  }
  by("by").textContent = found.by;
}

function tell() {
  const ago = heardAt ? Date.now() - heardAt : 0;
  const late = !heardAt || ago > LATE_MS;
  by("live").className = late ? "live late" : "live";
  by("live").textContent = !heardAt ? "connecting …" : late ? `no news for ${age(ago / 1000)}` : "live";
  if (late && heardAt) {
    by("verdict").textContent = "this node does not answer";
    by("verdict").className = "verdict bad";
  }
}

const source = new EventSource("/events");
source.onmessage = (message) => {
  heardAt = Date.now();
  draw(JSON.parse(message.data));
  tell();
};
setInterval(tell, 1000);
tell();
