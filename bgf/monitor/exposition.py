"""A node's answers as Prometheus reads them: which metric, which unit, which labels. No I/O.

Knows: the fields of the processes' answers, the names of the metrics. Must not know how either
travels. A field that is missing or odd is left out: an older process is no error. Labels are bound
to the configuration (groups, realms, nodes), to fixed lists (outcomes, verbs) or to both, never to
calls, peers' addresses or anything that a stranger chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest

from bgf.admin import Json
from bgf.ctl.client import number, several, table, text
from bgf.monitor.families import Families

VALUES_MAX: Final = 64
"""Samples of one family with labels that an answer chooses: more are no answer of ours."""
ENDS: Final = ("ended", "unanswered", "abandoned")
NOT_COMMANDS: Final = ("media-stopped", "media-never-started")
SHED: Final = "shed-"
MS: Final = 1_000.0


def text_of(node: str, answers: Mapping[str, Json | None], spent_s: Mapping[str, float]) -> str:
    """Everything of one node in Prometheus' text form. `answers`: process -> what it said, None
    when it did not; `spent_s`: how long it took to answer."""
    registry = CollectorRegistry()
    families = Families({"node": node})
    _processes(families, answers, spent_s)
    gateway, failover = answers.get("gateway"), answers.get("failover")
    if gateway is not None:
        _gateway(families, gateway)
        for group, said in _some(gateway.get("groups")):
            _group(families, group, table(said))
    if failover is not None:
        _failover(families, node, failover)
    registry.register(_Made(families))
    ours = generate_latest(registry).decode()
    state = answers.get("state") or {}
    return ours + text(state.get("metrics"))


class _Made:
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Families:
        return self._families


def _some(value: object) -> list[tuple[str, Any]]:
    return list(table(value).items())[:VALUES_MAX]


def _fraction(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _processes(
    families: Families, answers: Mapping[str, Json | None], spent_s: Mapping[str, float]
) -> None:
    for process, answer in answers.items():
        what = "1: the process answers on its admin socket."
        families.gauge("bgf_process_up", what, int(answer is not None), process=process)
        what = "1: it says that it could do its work now."
        ready = answer is not None and answer.get("ready") is True
        families.gauge("bgf_process_ready", what, int(ready), process=process)
        what = "How long its last answer took."
        if process in spent_s:
            families.gauge("bgf_process_answer_seconds", what, spent_s[process], process=process)
        version = text((answer or {}).get("version"))
        if version:
            families.gauge("bgf_build_info", "The release that runs.", 1, version=version)


def _gateway(families: Families, said: Json) -> None:
    gauge, counter = families.gauge, families.counter
    gauge("bgf_pinholes", "Pinholes in the packet path.", number(said.get("pinholes")))
    gauge("bgf_pinholes_limit", "Room for pinholes.", number(said.get("pinholes_max")))
    what = "Far ends whose next hop does not answer ARP or ND."
    gauge("bgf_next_hops_unresolved", what, number(said.get("unresolved")))
    what = "Changes of the state plane that this node knows of and has not taken in."
    gauge("bgf_feed_missing", what, number(said.get("missing")))
    what = "Memory that the gateway process shares with nobody."
    gauge("bgf_gateway_memory_bytes", what, number(said.get("memory_bytes")))
    what = "From there on new calls are refused."
    gauge("bgf_gateway_memory_limit_bytes", what, number(said.get("memory_max_bytes")))
    what = "Calls that one group may have."
    gauge("bgf_calls_limit", what, number(said.get("sessions_max")))
    for realm, outcomes in _some(table(said.get("packets")).get("by_realm")):
        for outcome, count in _some(outcomes):
            what = "Packets by where they came from and what became of them; `forward` left again."
            counter("bgf_packets", what, number(count), realm=realm, outcome=outcome)
    for cpu, count in list(table(table(said.get("packets")).get("by_cpu")).items()):
        counter("bgf_cpu_packets", "Packets by the CPU that took them.", number(count), cpu=cpu)
    for realm, attached in _some(said.get("attachments")):
        what = "1: the packet program runs in the driver, 0: in the kernel's generic, slower path."
        gauge("bgf_xdp_native", what, int(table(attached).get("mode") == "native"), realm=realm)
    calls = table(said.get("calls"))
    counter("bgf_calls_begun", "Calls that began here.", number(calls.get("begun")))
    for how in ENDS:
        what = "Calls that ended here: as asked, never answered, or without media for too long."
        counter("bgf_calls_ended", what, number(calls.get(how)), how=how)
    _commands(families, table(said.get("commands")))
    for kind, count in _some(said.get("reports")):
        if kind != "waiting":
            what = "What the packet path reported, by what became of it."
            counter("bgf_media_reports", what, number(count), kind=kind)
    for kind, count in _some(said.get("ice")):
        what = "STUN checks at pinholes with ICE, by what became of them."
        counter("bgf_ice_checks", what, number(count), kind=kind)
    copies = table(said.get("copies"))
    gauge("bgf_copied_calls", "Calls recorded or forwarded now.", number(copies.get("calls")))


def _commands(families: Families, said: Json) -> None:
    limits = [float(one) for one in several(said.get("limits_s")) if _fraction(one) is not None]
    for verb, histogram in _some(said.get("names")):
        counts = [number(one) for one in several(table(histogram).get("counts"))]
        if len(counts) == len(limits) + 1:
            what = "Time from taking a command up to its reply, its writes included."
            total = _fraction(table(histogram).get("sum_s")) or 0.0
            families.histogram("bgf_command_seconds", what, limits, counts, total, command=verb)


def _group(families: Families, group: str, said: Json) -> None:
    gauge, counter = families.gauge, families.counter
    active = said.get("role") == "active"
    what = "1: this node answers control for the group."
    gauge("bgf_group_active", what, int(active), group=group)
    what = "Calls of the group that this node serves."
    gauge("bgf_calls", what, number(said.get("sessions")), group=group)
    what = "Calls without media on any stream, though nobody has ended them."
    gauge("bgf_calls_hanging", what, number(said.get("hanging")), group=group)
    what = "Calls of a group taken over that are still to be restored."
    gauge("bgf_calls_to_restore", what, number(said.get("pending")), group=group)
    what = "Pinholes of the group that this node knows of, whoever owns it."
    gauge("bgf_group_pinholes", what, number(said.get("flows")), group=group)
    for state in ("used", "free", "resting"):
        what = "Port pairs of a group that is served here; resting ones are not given out yet."
        gauge("bgf_port_pairs", what, number(said.get(f"pairs_{state}")), group=group, state=state)
    for key, name, what in (
        ("ready_in_ms", "bgf_takeover_ready_seconds", "from its beginning until calls could be"),
        ("restored_in_ms", "bgf_takeover_restored_seconds", "until all calls were"),
    ):
        value = _fraction(said.get(key))
        if value:
            told = f"The last takeover of the group here: {what} answered for."
            gauge(name, told, value / MS, group=group)
    for outcome, count in _some(said.get("outcomes")):
        if outcome in NOT_COMMANDS:
            what = "Streams whose media stopped or never started."
            kind = outcome.removeprefix("media-")
            counter("bgf_media_silences", what, number(count), group=group, kind=kind)
        else:
            what = "Commands by what became of them."
            counter("bgf_commands", what, number(count), group=group, outcome=outcome)
    for reason, count in _some(said.get("ng")):
        if reason.startswith(SHED):
            what = "New calls refused, by the limit that was reached."
            limit = reason.removeprefix(SHED)
            counter("bgf_calls_refused", what, number(count), group=group, limit=limit)
        else:
            what = "Control frames and connections, by what became of them."
            counter("bgf_control_frames", what, number(count), group=group, reason=reason)
    what = "Control connections (TCP, HTTP, WebSocket)."
    gauge("bgf_control_connections", what, number(said.get("connections")), group=group)
    gauge("bgf_calls_waiting", "New calls in the queue.", number(said.get("waiting")), group=group)
    rtp = table(said.get("rtp"))
    if not rtp:
        return
    what = "Streams that are listened to: those of the oldest calls."
    gauge("bgf_rtp_sampled_streams", what, number(rtp.get("streams")), group=group)
    what = "RTP packets of the sampled streams that should have come while they were listened to."
    counter("bgf_rtp_sampled_expected_packets", what, number(rtp.get("expected")), group=group)
    what = "RTP packets of the sampled streams that did not come."
    counter("bgf_rtp_sampled_lost_packets", what, number(rtp.get("lost")), group=group)
    mos, jitter_ms = _fraction(rtp.get("mos")), _fraction(rtp.get("jitter_ms"))
    if mos is not None:
        what = "Mean opinion score of the sampled streams, an upper bound (ITU-T G.107)."
        gauge("bgf_rtp_mos", what, mos, group=group)
    if jitter_ms is not None:
        what = "Mean interarrival jitter of the sampled streams (RFC 3550)."
        gauge("bgf_rtp_jitter_seconds", what, jitter_ms / MS, group=group)


def _lives(me: str, owner: str, said: Json) -> bool:
    """Has an owner a living lease? One's own counts as it stands here, by the peers' word too."""
    told = said if owner == me else table(table(said.get("members")).get(owner))
    return bool(owner) and number(told.get("lease_left_ms")) > 0


def _failover(families: Families, node: str, said: Json) -> None:
    gauge, counter = families.gauge, families.counter
    what = "1: this node is to take nothing over."
    gauge("bgf_drained", what, int(said.get("drained") is True))
    what = "How long this node may go on without renewing its lease."
    gauge("bgf_lease_left_seconds", what, number(said.get("lease_left_ms")) / MS)
    if "lease_ms" in said:
        what = "How long a lease is."
        gauge("bgf_lease_seconds", what, number(said.get("lease_ms")) / MS)
    what = "1: the registry answered this node's failover process when last asked."
    gauge("bgf_registry_up", what, int(said.get("registry") == "ok"))
    what = "Groups that go on by the other nodes' word, since nobody reaches the registry."
    gauge("bgf_groups_vouched", what, len(table(table(said.get("vouching")).get("stands"))))
    warnings = said.get("warnings")
    what = "Sentences that an operator should read (bgfctl status)."
    gauge("bgf_warnings", what, len(warnings) if isinstance(warnings, list) else 0)
    for group, owner in _some(said.get("owners")):
        what = "1: this node owns the group, as it sees it."
        owned = int(table(owner).get("node") == node)
        gauge("bgf_group_owned", what, owned, group=group)
        what = "1: somebody with a living lease owns the group, as this node sees it."
        living = int(_lives(node, text(table(owner).get("node")), said))
        gauge("bgf_group_has_owner", what, living, group=group)
        what = "How often the group has changed its owner."
        gauge("bgf_group_epoch", what, number(table(owner).get("epoch")), group=group)
    for group, held in _some(said.get("groups")):
        what = "How long media of the group is forwarded here unless the lease is renewed."
        left_s = number(table(held).get("armed_left_ms")) / MS
        gauge("bgf_group_armed_seconds", what, left_s, group=group)
    hears = table(said.get("hears"))
    for peer, _ in _some(table(said.get("paths")) | hears):
        what = "Paths on which this node hears the other one now."
        gauge("bgf_peer_paths_heard", what, len(several(hears.get(peer))), peer=peer)
    for about, condition in _some(said.get("conditions")):
        what = "1 for each node that is not well, as this node sees it."
        state = text(table(condition).get("state"))
        gauge("bgf_node_condition", what, 1, about=about, state=state)
    for kind, count in _some(said.get("probes")):
        if kind == "own_lateness_ms":
            what = "By how much this node's own probes were late, in all."
            counter("bgf_probe_lateness_seconds", what, number(count) / MS)
        else:
            what = "Probes sent and heard, and datagrams that were none."
            counter("bgf_probes", what, number(count), kind=kind)
    for event, count in _some(said.get("counters")):
        what = "Events of the failover process."
        counter("bgf_failover_events", what, number(count), event=event)
