"""Which pinholes must be open, by what was said and what was answered. A plain model, no machine.

Written from RFC 3264 (offers and answers), RFC 3605 and RFC 5761 (where RTCP goes), RFC 3261
section 16.6 (how long an offer may wait) and 3GPP TS 23.334 clause 5.4 (gates, source filters,
latching), not from `session` or `session_flows`, whose values it does not know. It sees what a
proxy sees, commands and the replies to them: our addresses are those that the replies have told.

- A gate opens when both parties have described the m-line with a port; an offer alone opens
  nothing and closes nothing: what was agreed goes on until it is answered.
- It is closed where there is nowhere to send to: the receiver is on hold by the unspecified
  address, takes no RTCP there, or asks for it at an address of another IP version than ours.
- It is closed while nobody has said whence the sender sends, unless everybody may.
- RTCP shares a party's RTP port where he has said so and was told so (RFC 5761, on each side for
  itself); it has no gate of its own where that is so on both sides.
- The last answer counts. What a command has blocked, nobody sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bgf.events import Command, MediaLine, Reply, Result, Verb
from bgf.model import Address

HALF_OPEN_NS = 240 * 10**9  # beyond timer C's three minutes
NOWHERE = ("0.0.0.0", "::")


class Open(NamedTuple):
    """An open pinhole: where it is, where it leads, who may use it (None: any), and whether the
    first who does is the only one from then on."""

    arrives: Address
    remote: Address
    source_host: str | None
    source_port: int | None
    learns: bool


@dataclass
class Line:
    """An m-line of a call. Index 0 is the party that began the call, 1 the other one."""

    said: list[MediaLine | None] = field(default_factory=lambda: [None, None])
    ours: list[Address | None] = field(default_factory=lambda: [None, None])
    told_mux: list[bool] = field(default_factory=lambda: [False, False])
    mux: list[bool] = field(default_factory=lambda: [False, False])
    sends_from: list[Address | None] = field(default_factory=lambda: [None, None])


@dataclass
class Call:
    tags: list[str]
    realms: tuple[str, str]
    flags: tuple[str, ...]
    lines: list[Line]
    asked_ns: int
    offerer: int = 0
    offered: tuple[MediaLine, ...] = ()
    answered: bool = False
    blocked: set[int] = field(default_factory=set)
    others: set[str] = field(default_factory=set)  # who answered, and whose answer does not count


class GatewayModel:
    """`latching` says which realms let a sender teach whence he sends."""

    def __init__(self, realms: tuple[str, str], latching: Mapping[str, bool]) -> None:
        self.realms = realms
        self.latching = latching
        self.calls: dict[str, Call] = {}
        self.cookies: set[str] = set()

    def tell(self, command: Command, reply: Reply) -> None:
        """A command and what it was answered."""
        if command.cookie in self.cookies or reply.result is not Result.OK:
            return
        self.cookies.add(command.cookie)
        if command.verb not in (Verb.OFFER, Verb.DELETE):
            assert command.call_id in self.calls, "done for a call that is over"
        if command.verb is Verb.OFFER:
            self._offer(command, reply)
        elif command.verb is Verb.ANSWER:
            self._answer(command, reply)
        elif command.verb is Verb.DELETE:
            # Of another branch than the one that counts: nothing moves.
            call = self.calls.get(command.call_id)
            if call is None or command.to_tag in ("", call.tags[1]):
                self.calls.pop(command.call_id, None)
        elif command.verb in (Verb.BLOCK_MEDIA, Verb.UNBLOCK_MEDIA):
            call = self.calls[command.call_id]
            sides = {side for side in (0, 1) if command.from_tag in ("", call.tags[side])}
            blocks = command.verb is Verb.BLOCK_MEDIA
            call.blocked = call.blocked | sides if blocks else call.blocked - sides

    def tick(self, now_ns: int) -> None:
        """Offers that nobody has answered are given up."""
        for name, call in list(self.calls.items()):
            if not call.answered and now_ns >= call.asked_ns + HALF_OPEN_NS:
                del self.calls[name]

    def end(self, call_id: str) -> None:
        self.calls.pop(call_id, None)

    def open(self) -> set[Open]:
        """Every pinhole that must be open; no other one may be."""
        found: set[Open] = set()
        for call in self.calls.values():
            for line in call.lines:
                for sender in (0, 1):
                    if sender not in call.blocked:
                        found |= self._open(call, line, sender)
        return found

    # Inside.

    def _offer(self, command: Command, reply: Reply) -> None:
        call = self.calls.get(command.call_id)
        if call is None:
            call = Call([command.from_tag, ""], self.realms, command.flags, [], command.now_ns)
            self.calls[command.call_id] = call
        call.offerer = int(command.from_tag != call.tags[0])
        call.offered = command.media
        call.asked_ns = command.now_ns
        while len(call.lines) < len(command.media):
            call.lines.append(Line())
        for line, shown in zip(call.lines, reply.media, strict=False):
            if shown.rtp.port:
                line.ours[1 - call.offerer] = shown.rtp
                line.told_mux[1 - call.offerer] = shown.rtcp_mux

    def _answer(self, command: Command, reply: Reply) -> None:
        call = self.calls[command.call_id]
        answerer = 1 - call.offerer
        in_force = [line.said[call.offerer] for line in call.lines]
        offered: list[MediaLine | None] = list(call.offered) or in_force
        if command.to_tag != call.tags[answerer]:
            call.others.add(call.tags[answerer])
            call.others.discard(command.to_tag)
        call.tags[answerer] = command.to_tag
        call.answered = True
        for index, (asked, given) in enumerate(zip(offered, command.media, strict=True)):
            line = call.lines[index]
            if asked is None or not asked.rtp.port:
                call.lines[index] = Line()  # it is gone: what comes in its place begins anew
                continue
            line.said[call.offerer], line.said[answerer] = asked, given
            if reply.media[index].rtp.port:
                line.ours[call.offerer] = reply.media[index].rtp
                line.mux[call.offerer] = asked.rtcp_mux and reply.media[index].rtcp_mux
                line.mux[answerer] = line.told_mux[answerer] and given.rtcp_mux
            for side in (0, 1):
                said = line.said[side]
                if said is not None and said.rtp.port and said.rtp.host not in NOWHERE:
                    line.sends_from[side] = said.rtp
        call.offered = ()

    def _open(self, call: Call, line: Line, sender: int) -> set[Open]:
        """RTP and RTCP from one party to the other."""
        receiver = 1 - sender
        says, wants = line.said[sender], line.said[receiver]
        arrives, leaves = line.ours[sender], line.ours[receiver]
        if says is None or wants is None or not says.rtp.port or not wants.rtp.port:
            return set()
        if arrives is None or leaves is None:
            return set()
        found = set()
        for offset in (0, 1):
            if offset and all(line.mux):
                continue
            remote = wants.rtcp if offset and not line.mux[receiver] else wants.rtp
            stated = says.rtcp if offset and not line.mux[sender] else says.rtp
            if remote is None or remote.host in NOWHERE or remote.family != leaves.family:
                continue
            if stated is not None and stated.host in NOWHERE:
                stated = None
            known = stated or line.sends_from[sender]
            if known is None and not self._anybody(call):
                continue
            at = Address(arrives.host, arrives.port + offset)
            found.add(Open(at, remote, *self._filter(call, sender, stated, known)))
        return found

    def _filter(
        self, call: Call, sender: int, stated: Address | None, known: Address | None
    ) -> tuple[str | None, int | None, bool]:
        """Who may send: TS 23.334 5.4.3 (source filtering) and 5.4.2 (latching). `strict-source`
        and `asymmetric` are rtpengine's: the one holds to who was learned, the other learns nobody.
        """
        if self._anybody(call):
            return None, None, False
        learns = self.latching[call.realms[sender]]
        if "symmetric" in call.flags or "strict-source" in call.flags:
            learns = "asymmetric" not in call.flags
        if learns:  # anybody may be the first, where it is not known from the network who it is
            seen = "SIP-source-address" in call.flags and known is not None
            return (known.host if seen and known else None), None, True
        if known is None:
            return None, None, False
        if "strict-source" in call.flags and stated is not None:
            return stated.host, stated.port, False
        return known.host, None, False

    @staticmethod
    def _anybody(call: Call) -> bool:
        return "asymmetric" in call.flags and "strict-source" not in call.flags
