"""FakeDatapath: the packet path's rules applied to `Packet` values, for tests without a kernel.

Semantic: ask it where a packet goes; what it answers, `XdpDatapath` answers too (one contract
suite and one property test hold them together). The world outside is given by attributes that a
test sets: `now_ns`, `mtu`, `unreachable`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bgf.errors import DatapathError
from bgf.media import frames
from bgf.media.datapath import Outcome, Verdict
from bgf.model import Address, Counters, Flow, FlowKey, Gate, Group

MTU_DEFAULT = 1_500
MACS = {"ours": bytes.fromhex("0200000000aa"), "theirs": bytes.fromhex("0200000000bb")}
SBFD_PORT = 7784
_SBFD = struct.Struct(">BBBBIIIII")


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
        self.mtu = MTU_DEFAULT
        self.unreachable: set[str] = set()
        self.pinholes_max = pinholes_max
        self._discriminator = discriminator
        self._deadlines = {group.id: 0 for group in groups}
        self._guarded = {address.host for address in addresses}
        self._flows: dict[FlowKey, Flow] = {}
        self._counters: dict[FlowKey, Counters] = {}
        self._counts: dict[Outcome, int] = {
            outcome: 0 for outcome in Outcome if outcome is not Outcome.PASS
        }

    # ---- Datapath -------------------------------------------------------------------------------

    def install(self, flows: Sequence[Flow]) -> None:
        wanted = {flow.key: flow for flow in flows}
        if len(set(self._flows) | set(wanted)) > self.pinholes_max:
            raise DatapathError(f"the table holds {self.pinholes_max} pinholes")
        for flow in wanted.values():
            self._deadline(flow.group)
            self._interface(flow.realm_in)
            self._interface(flow.realm_out)
            if flow.remote and flow.remote.family is not flow.local_out.family:
                raise DatapathError(f"flow {flow.key}: two IP versions on its way out")
        self._flows.update(wanted)
        for key in wanted:
            self._counters.setdefault(key, Counters())

    def remove(self, keys: Iterable[FlowKey]) -> None:
        for key in keys:
            self._flows.pop(key, None)
            self._counters.pop(key, None)

    def arm(self, group: str, deadline_ns: int) -> None:
        self._deadline(group)
        self._deadlines[group] = deadline_ns

    def keys(self) -> set[FlowKey]:
        return set(self._flows)

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        return [self._counters.get(key, Counters()) for key in keys]

    def drops(self) -> Mapping[Outcome, int]:
        return self._counts.copy()

    def trace(self, sender: Address, receiver: Address, realm: str, payload: bytes) -> Verdict:
        if sender.family is not receiver.family:
            raise DatapathError(f"no packet goes from {sender} to {receiver}: two IP versions")
        self._interface(realm)
        return self._judge(Packet(realm, sender, receiver, payload))

    # ---- what a test does with it ---------------------------------------------------------------

    def send(self, packet: Packet) -> Verdict:
        """The packet arrives: counted, as the kernel would."""
        verdict = self._judge(packet)
        if verdict.outcome is not Outcome.PASS:
            self._counts[verdict.outcome] += 1
        if verdict.outcome is Outcome.FORWARD:
            key = FlowKey(packet.receiver.host, packet.receiver.port)
            seen = self._counters[key]
            self._counters[key] = Counters(
                seen.packets + 1, seen.bytes + len(packet.payload), self.now_ns()
            )
        return verdict

    # ---- the rules ------------------------------------------------------------------------------

    def _judge(self, packet: Packet) -> Verdict:
        whole = not (packet.fragment or packet.malformed)
        if packet.to_us and whole and packet.receiver.port == SBFD_PORT:
            answer = self._reflection(packet)
            if answer:
                return answer
        outcome = self._outcome(packet)
        if outcome is Outcome.PASS:
            return Verdict(outcome, "", packet.sender, packet.receiver, self._frame(packet))
        if outcome is not Outcome.FORWARD:
            return Verdict(outcome)
        flow = self._flows[FlowKey(packet.receiver.host, packet.receiver.port)]
        assert flow.remote is not None
        sent = replace(
            packet, sender=flow.local_out, receiver=flow.remote, hops=packet.hops - 1, to_us=False
        )
        return Verdict(
            outcome, self.realms[flow.realm_out], sent.sender, sent.receiver, self._frame(sent)
        )

    def _outcome(self, packet: Packet) -> Outcome:
        if not packet.to_us:
            return Outcome.PASS
        flow = self._flows.get(FlowKey(packet.receiver.host, packet.receiver.port))
        guarded = packet.receiver.host in self._guarded
        if packet.fragment:
            return Outcome.FRAGMENT if guarded else Outcome.PASS
        if packet.malformed:
            return Outcome.MALFORMED if guarded else Outcome.PASS
        if flow is None or self.realms[flow.realm_in] != self.realms[packet.realm]:
            return Outcome.NO_PINHOLE if guarded else Outcome.PASS
        if self.now_ns() >= self._deadlines[flow.group]:
            return Outcome.DISARMED
        if flow.gate is not Gate.OPEN or flow.remote is None:
            return Outcome.GATE_CLOSED
        if not flow.source.admits(packet.sender):
            return Outcome.BAD_SOURCE
        if packet.hops <= 1:
            return Outcome.TTL
        if flow.remote.host in self.unreachable:
            return Outcome.NO_NEIGHBOUR
        headers = 48 if flow.remote.family == 6 else 28
        if headers + len(packet.payload) > self.mtu:
            return Outcome.TOO_BIG
        return Outcome.FORWARD

    def _reflection(self, packet: Packet) -> Verdict | None:
        """RFC 7880: what a reflector of this node's discriminator answers, if it does."""
        if len(packet.payload) < _SBFD.size or packet.sender.port == SBFD_PORT:
            return None
        version, flags, multiplier, length, mine, yours, *intervals = _SBFD.unpack_from(
            packet.payload
        )
        bad = version >> 5 != 1 or not multiplier or not mine or flags & 0x05
        if bad or not 24 <= length <= len(packet.payload):
            return None
        if not self._discriminator or yours != self._discriminator:
            return None
        final = 0x10 if flags & 0x20 else 0
        head = _SBFD.pack(0x20, 0xC8 | final, multiplier, length, yours, mine, *intervals)
        answer = replace(
            packet,
            sender=packet.receiver,
            receiver=packet.sender,
            payload=head + packet.payload[_SBFD.size :],
            hops=255,
            to_us=False,
        )
        frame = self._frame(answer)
        interface = self.realms[packet.realm]
        return Verdict(Outcome.REFLECT, interface, answer.sender, answer.receiver, frame)

    def _frame(self, packet: Packet) -> bytes:
        to, source = ("ours", "theirs") if packet.to_us else ("theirs", "ours")
        return frames.build(
            packet.sender,
            packet.receiver,
            packet.payload,
            destination_mac=MACS[to],
            source_mac=MACS[source],
            hops=packet.hops,
        )

    def _deadline(self, group: str) -> int:
        if group not in self._deadlines:
            raise DatapathError(f"group '{group}' is not configured on this node")
        return self._deadlines[group]

    def _interface(self, realm: str) -> str:
        if realm not in self.realms:
            raise DatapathError(f"realm '{realm}' carries no media here")
        return self.realms[realm]
