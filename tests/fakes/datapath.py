"""FakeDatapath: a Datapath without a kernel, for tests. Its rules are those of `packet_model`.

Semantic: ask it where a packet goes; what it answers, `XdpDatapath` answers too (one contract
suite and property tests hold them together). The world outside is given by attributes that a test
sets: `now_ns`, `mtu`, `unreachable`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bgf.errors import DatapathError
from bgf.media import frames
from bgf.media.datapath import Captured, Outcome, Report, Tally, Verdict, objection
from bgf.media.silence import SilenceWatch
from bgf.model import Address, Counters, Flow, FlowKey, Gate, Group, RtpStatistics
from tests.fakes.packet_model import Interface, PacketModel, Ran

MTU_DEFAULT = 1_500
MACS = {"ours": bytes.fromhex("0200000000aa"), "theirs": bytes.fromhex("0200000000bb")}
PASSED_UNCOUNTED = Outcome.PASS


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Packet:
    """A UDP packet as it arrives in a realm. `to_us` is about the MAC address."""

    realm: str
    sender: Address
    receiver: Address
    payload: bytes = b""
    hops: int = frames.HOPS_DEFAULT
    to_us: bool = True
    fragment: bool = False
    malformed: bool = False


class FakeDatapath:
    """A Datapath whose packets a test sends itself, by `send`.

    `realms` maps media realms to interface names; without it each realm of the groups' addresses
    is its own interface. Raises DatapathError where the real one does.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        realms: Mapping[str, str] | None = None,
        *,
        discriminator: int = 0,
        pinholes_max: int = 65_536,
        now_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        addresses = [address for group in groups for address in group.addresses]
        self.realms = dict(realms) if realms else {a.realm: a.realm for a in addresses}
        self.now_ns = now_ns
        self.unreachable: set[str] = set()
        self.pinholes_max = pinholes_max
        self.model = PacketModel(
            [group.id for group in groups],
            {realm: Interface(name, MACS["ours"]) for realm, name in self.realms.items()},
            {address.host for address in addresses},
            lambda _, host: None if host in self.unreachable else MACS["theirs"],
        )
        self.model.discriminator = discriminator
        self._counts: Counter[tuple[str, Outcome]] = Counter()
        self._silence = SilenceWatch()
        self._armed_since: dict[str, int] = {}
        self._capture: FakeCapture | None = None

    @property
    def mtu(self) -> int:
        return next(iter(self.model.realms.values())).mtu

    @mtu.setter
    def mtu(self, mtu: int) -> None:
        self.model.realms = {r: replace(i, mtu=mtu) for r, i in self.model.realms.items()}

    # ---- Datapath -------------------------------------------------------------------------------

    def install(self, flows: Sequence[Flow]) -> None:
        wanted = {flow.key: flow for flow in flows}
        if len(set(self.model.flows) | set(wanted)) > self.pinholes_max:
            raise DatapathError(f"the table holds {self.pinholes_max} pinholes")
        for flow in wanted.values():
            self._known(flow.group)
            self._interface(flow.realm_in)
            self._interface(flow.realm_out)
            problem = objection(flow)
            if problem:
                raise DatapathError(f"flow {flow.key}: {problem}")
        now_ns = self.now_ns()
        for flow in wanted.values():
            self.model.install(flow, now_ns)
            is_open = flow.gate is Gate.OPEN and (flow.remote is not None or flow.follows)
            self._silence.watch(flow.key, flow.group, flow.inactivity_ms if is_open else 0, now_ns)

    def remove(self, keys: Iterable[FlowKey]) -> None:
        for key in keys:
            self.model.remove(key)
            self._silence.forget(key)

    def arm(self, group: str, deadline_ns: int) -> None:
        self._known(group)
        self.model.deadlines[group] = deadline_ns

    def keys(self) -> set[FlowKey]:
        return set(self.model.flows)

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        streams = [self.model.streams.get(key) for key in keys]
        return [stream.counters if stream else Counters() for stream in streams]

    def rtp(self, keys: Sequence[FlowKey]) -> list[RtpStatistics]:
        found = []
        for key in keys:
            flow, stream = self.model.flows.get(key), self.model.streams.get(key)
            told = stream.rtp if stream else RtpStatistics()
            found.append(told._replace(clock_hz=flow.rtp.clock_hz) if flow and flow.rtp else told)
        return found

    def measured(self, keys: Sequence[FlowKey]) -> tuple[list[Counters], list[RtpStatistics]]:
        return self.counters(keys), self.rtp(keys)

    def drops(self) -> Mapping[Outcome, int]:
        counts = {outcome: 0 for outcome in Outcome if outcome is not PASSED_UNCOUNTED}
        for (_, outcome), count in self._counts.items():
            counts[outcome] += count
        return counts

    def tallies(self) -> list[Tally]:
        return [Tally(realm, 0, outcome, n) for (realm, outcome), n in self._counts.items()]

    def trace(self, sender: Address, receiver: Address, realm: str, payload: bytes) -> Verdict:
        if sender.family is not receiver.family:
            raise DatapathError(f"no packet goes from {sender} to {receiver}: two IP versions")
        self._interface(realm)
        return self._verdict(self._run(Packet(realm, sender, receiver, payload), traced=True))

    def relatch(self, key: FlowKey) -> None:
        self.model.relatch(key)

    def reports(self) -> list[Report]:
        now_ns = self.now_ns()
        for group, deadline_ns in self.model.deadlines.items():
            if now_ns < deadline_ns:
                self._armed_since.setdefault(group, now_ns)
            else:
                self._armed_since.pop(group, None)
        learned, self.model.learned = self.model.learned, []
        silent = self._silence.due(
            now_ns, self._armed_since, lambda keys: [c.last_seen_ns for c in self.counters(keys)]
        )
        return [*learned, *silent]

    def fileno(self) -> int:
        return -1  # no test polls it

    def capture(self, keys: Iterable[FlowKey], snap_bytes: int = 256) -> FakeCapture:
        if self._capture is not None and not self._capture.closed:
            raise DatapathError("another capture is running: end it first")
        self._capture = FakeCapture(lambda: set(self.model.flows))
        self._capture.want(keys, snap_bytes)
        return self._capture

    # ---- what a test does with it ---------------------------------------------------------------

    def send(self, packet: Packet) -> Verdict:
        """The packet arrives: counted, as the kernel would."""
        ran = self._run(packet, traced=False)
        if ran.outcome is not PASSED_UNCOUNTED:
            self._counts[packet.realm, ran.outcome] += 1
        if self._capture is not None:
            key = FlowKey(packet.receiver.host, packet.receiver.port)
            self._capture.add(self.now_ns(), key, False, self.realms[packet.realm], _frame(packet))
            for key in ran.passed:
                assert ran.interface is not None
                self._capture.add(self.now_ns(), key, True, ran.interface.device, ran.frame)
        return self._verdict(ran)

    # ---- inside ---------------------------------------------------------------------------------

    def _run(self, packet: Packet, traced: bool) -> Ran:
        device = self.realms[packet.realm]
        return self.model.run(_frame(packet), device, self.now_ns(), traced)

    @staticmethod
    def _verdict(ran: Ran) -> Verdict:
        if not ran.frame:
            return Verdict(ran.outcome)
        datagram = frames.read(ran.frame)
        return Verdict(
            ran.outcome,
            ran.interface.device if ran.interface else "",
            datagram.sender if datagram else None,
            datagram.receiver if datagram else None,
            ran.frame,
        )

    def _known(self, group: str) -> None:
        if group not in self.model.deadlines:
            raise DatapathError(f"group '{group}' is not configured on this node")

    def _interface(self, realm: str) -> None:
        if realm not in self.realms:
            raise DatapathError(f"realm '{realm}' carries no media here")


class FakeCapture:
    """The `Capture` of the fake."""

    def __init__(self, existing: Callable[[], set[FlowKey]]) -> None:
        self.keys: set[FlowKey] = set()
        self.lost = 0
        self.closed = False
        self._existing = existing
        self._snap_bytes = 0
        self._frames: deque[Captured] = deque()

    def want(self, keys: Iterable[FlowKey], snap_bytes: int) -> None:
        self.keys = set(keys) & self._existing()
        self._snap_bytes = snap_bytes

    def add(self, now_ns: int, key: FlowKey, leaving: bool, interface: str, frame: bytes) -> None:
        if not self.closed and key in self.keys:
            cut = frame[: self._snap_bytes]
            self._frames.append(Captured(now_ns, key, leaving, interface, len(frame), cut))

    def __iter__(self) -> Iterator[Captured]:
        while self._frames:
            yield self._frames.popleft()

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True


def _frame(packet: Packet) -> bytes:
    """The packet on the wire; what is wrong with it is wrong there, too."""
    to, source = ("ours", "theirs") if packet.to_us else ("theirs", "ours")
    frame = frames.build(
        packet.sender,
        packet.receiver,
        packet.payload,
        destination_mac=MACS[to],
        source_mac=MACS[source],
        hops=packet.hops,
    )
    six = packet.receiver.family == 6
    if packet.fragment and six:
        return frame[:20] + bytes([44]) + frame[21:]
    if packet.fragment:
        return frame[:20] + bytes([frame[20] | 0x20]) + frame[21:]
    if packet.malformed:
        length = 58 if six else 38  # of the UDP datagram
        return frame[:length] + b"\0\7" + frame[length + 2 :]
    return frame
