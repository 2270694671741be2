"""Golden transcripts of the gateway machine: `> ` lines go in, indented lines must come out.

    group g1 30000-30099 access=fd00:a::101,10.10.0.101 core=10.20.0.101
    > +20ms offer call=x from=alice audio@[fd00:a::2]:4000/mux

`+20ms` moves the clock on. Media: `KIND@ADDRESS[/mux][/sendonly|...][/rtcp=none][/ice=UFRAG]`, or
`/udptl` for another transport than RTP/AVP. Other words with `=` are fields of the command, the
rest are flags (`ICE=...` and `rtcp-mux=...` too). `expire` steps all due events, `digest`
and `usage` print what the machine says of itself, `draw=N` sets the entropy. A group with
`latch=REALM` latches what comes from there, and watches it; `learned PINHOLE PEER [round]`,
`nominated PINHOLE PEER`, `silent PINHOLE [last_seen_ns]` and `relatch` are what the packet path,
ICE agents and the operator say.
"""

from __future__ import annotations

import hashlib

from bgf.errors import PeerError
from bgf.events import (
    Command,
    DropFlow,
    Effect,
    Forget,
    Learned,
    MediaLine,
    Nominated,
    Notify,
    PutFlow,
    Relatch,
    Reply,
    Silent,
    Verb,
)
from bgf.gateway import Gateway, Limits
from bgf.model import Address, Component, Flow, FlowKey, Group, Latch, RealmAddress
from bgf.policy import RealmPolicy

NS_PER_MS = 1_000_000
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


def run(text: str) -> str:
    """The same transcript with the outputs that the machine gives now."""
    gateway: Gateway | None = None
    now_ns, number, out = 0, 0, []
    for raw in text.splitlines():
        if raw.startswith("  "):
            continue
        out.append(raw)
        if raw.startswith("group "):
            gateway = _gateway(raw.split()[1:])
        if not raw.startswith("> "):
            continue
        assert gateway is not None, "a transcript begins with its group"
        words = raw[2:].split()
        if words[0].startswith("+"):
            now_ns += int(words.pop(0)[1:].removesuffix("ms")) * NS_PER_MS
        if words[0] == "expire":
            while event := gateway.due(now_ns):
                out += [f"  expired {event.call_id}", *_effects(gateway.step(event))]
        elif words[0] == "usage":
            out.append("  " + " ".join(f"{k}={v}" for k, v in gateway.usage()._asdict().items()))
        elif words[0] == "digest":
            out.append(f"  {hashlib.sha256(gateway.digest()).hexdigest()[:16]}")
        elif words[0] == "learned":
            key, peer = (Address.parse(word) for word in words[1:3])
            seen = int(words[3]) if len(words) > 3 else 0
            at = FlowKey(key.host, key.port)
            out += _effects(gateway.step(Learned(now_ns, "x", at, peer, seen)))
        elif words[0] == "nominated":
            key, peer = (Address.parse(word) for word in words[1:3])
            out += _effects(gateway.step(Nominated(now_ns, "x", FlowKey(key.host, key.port), peer)))
        elif words[0] == "silent":
            key = Address.parse(words[1])
            seen = int(words[2]) if len(words) > 2 else 0
            out += _effects(gateway.step(Silent(now_ns, "x", FlowKey(key.host, key.port), seen)))
        elif words[0] == "relatch":
            out += _effects(gateway.step(Relatch(now_ns, "x")))
        else:
            number += 1
            command, entropy = _command(words, now_ns, f"c{number}")
            try:
                out += _effects(gateway.step(gateway.draw(command, entropy)))
            except PeerError as error:
                out.append(f"  refused {error.code}: {error.reason}")
    return "\n".join(out) + "\n"


def _gateway(words: list[str]) -> Gateway:
    name, ports, *rest = words
    first, last = (int(port) for port in ports.split("-"))
    addresses: list[RealmAddress] = []
    limits = Limits()
    policies = {}
    for word in rest:
        key, _, value = word.partition("=")
        if key == "sessions_max":
            limits = Limits(sessions_max=int(value))
            continue
        if key == "latch":
            policies[value] = RealmPolicy(Latch.LATCH, inactivity_ms=30_000)
            continue
        addresses += [
            RealmAddress(key, host, 64 if ":" in host else 24) for host in value.split(",")
        ]
    group = Group(name, Address("10.30.0.101", 2223), "mgmt", 24, (first, last), tuple(addresses))
    return Gateway(group, ("access", "core"), limits, policies)


def _command(words: list[str], now_ns: int, cookie: str) -> tuple[Command, int]:
    fields: dict[str, object] = {"cookie": cookie, "call_id": "x"}
    media: list[MediaLine] = []
    flags: list[str] = []
    entropy = 0
    for word in words[1:]:
        key, sep, value = word.partition("=")
        if "@" in word:
            media.append(_line(word))
        elif key == "draw":
            entropy = int(value)
        elif key in ("ICE", "rtcp-mux"):
            flags.append(word)
        elif key == "realms":
            fields["realms"] = tuple(value.split(","))
        elif key == "family":
            fields["family"] = int(value)
        elif sep:
            names = {"call": "call_id", "from": "from_tag", "to": "to_tag", "branch": "via_branch"}
            fields[names.get(key, key)] = value
        else:
            flags.append(word)
    made = Command(
        now_ns=now_ns,
        verb=Verb(words[0]),
        media=tuple(media),
        flags=tuple(flags),
        **fields,  # type: ignore[arg-type]
    )
    return made, entropy


def _line(word: str) -> MediaLine:
    kind, _, rest = word.partition("@")
    where, *notes = rest.split("/")
    rtp = Address.parse(where)
    rtcp = Address(rtp.host, rtp.port + 1) if rtp.port and "rtcp=none" not in notes else None
    direction = next((note for note in notes if note in DIRECTIONS), "sendrecv")
    ice = next((note[4:] for note in notes if note.startswith("ice=")), "")
    udptl = "udptl" in notes
    return MediaLine(
        kind,
        "udptl" if udptl else "RTP/AVP",
        rtp,
        None if udptl else rtcp,
        "mux" in notes,
        direction,
        ice_ufrag=ice,
    )


def _effects(effects: list[Effect]) -> list[str]:
    return [f"  {text}" for effect in effects for text in _effect(effect)]


def _effect(effect: Effect) -> list[str]:
    if isinstance(effect, PutFlow):
        return [f"put  {_flow(effect.flow)}"]
    if isinstance(effect, DropFlow):
        return [f"drop {effect.key}"]
    if isinstance(effect, Forget):
        return [f"forget {effect.call_id}"]
    if isinstance(effect, Notify):
        what = "never started" if effect.never_started else "stopped"
        return [f"notify {effect.call_id}: media of stream {effect.stream} at {effect.key} {what}"]
    return _reply(effect)


def _flow(flow: Flow) -> str:
    admits = "any" if flow.source.host is None else flow.source.host
    if flow.source.port is not None:
        admits += f" port {flow.source.port}"
    component = "rtp " if flow.component is Component.RTP else "rtcp"
    return (
        f"{flow.stream} {component} {flow.gate.name.lower():6} {flow.realm_in} {flow.local_in}"
        f" => {flow.realm_out} {flow.local_out} -> {flow.remote or 'nowhere'}, from {admits}"
        + (f", {flow.latch.name.lower()} {flow.latch_round}" if flow.latch.learns else "")
        + (f", learned {flow.learned}" if flow.learned else "")
        + (", to who is learned" if flow.follows else "")
        + (f", ice {flow.ice.ufrag}:{flow.ice.remote_ufrag or '*'}" if flow.ice else "")
        + (", rtcp goes on by the next port" if flow.demux else "")
    )


def _reply(reply: Reply) -> list[str]:
    head = f"reply {reply.cookie} {reply.result}"
    if reply.reason:
        head += f": {reply.reason}"
    if reply.warning:
        head += f" (warning: {reply.warning})"
    lines = [head]
    for index, rewrite in enumerate(reply.media):
        rtcp = f" rtcp {rewrite.rtcp}" if rewrite.rtcp else ""
        ice = f" ice {rewrite.ice.ufrag}" if rewrite.ice else ""
        mux = " mux" if rewrite.rtcp_mux else ""
        lines.append(f"      m{index} {rewrite.rtp}{rtcp}{mux}{ice}")
    lines += [f"      flow {_flow(flow)}" for flow in reply.flows]
    return lines
