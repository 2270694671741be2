"""A call as a frozen value: its state, its streams, the replies it has given. No behaviour.

Knows: events and model. Must not know what a command does to a call (`session`) nor which
pinholes follow from it (`session_flows`).
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

from bgf.events import MediaLine, Reply
from bgf.model import Address, Component, Group, Ice
from bgf.policy import DEFAULT_POLICY, Policies, RealmPolicy

NS_PER_MS: Final = 1_000_000
HALF_OPEN_MAX_MS: Final = 240_000  # beyond the 3 minutes of timer C, RFC 3261 section 16.6
REPLY_KEPT_MS: Final = 60_000
PORT_REST_MAX_MS: Final = 60_000  # how long a call remembers which ports it gave back
RESTS_MAX: Final = 64  # of one call


class State(enum.StrEnum):
    """Where a call is. NEW is never stored: it is what an unknown call starts from."""

    NEW = "new"
    OFFERED = "offered"  # half-open
    ESTABLISHED = "established"
    REOFFERED = "reoffered"  # media as agreed before; the new description awaits its answer
    DELETED = "deleted"  # tombstone: only its replies live on


class Site(msgspec.Struct, frozen=True):
    """What a session must know of where it is: its group, the realms when none are named, and
    what is wanted of each realm's media."""

    group: Group
    default_realms: tuple[str, str]
    policies: Policies = {}

    def policy(self, realm: str) -> RealmPolicy:
        return self.policies.get(realm, DEFAULT_POLICY)


class Stream(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One m-line. Every pair is (towards side 0, towards side 1); side 0 made the first offer.

    `ports` are our even RTP ports, (0, 0) while none are held; `hosts` our addresses. `lines`
    are the descriptions in force, `sources` where each party was last known to send from (a
    description on hold does not say). `rounds` counts how often each side was let learn anew;
    `learned` is what was learned in the latest, as (RTP, RTCP) of side 0, then of side 1.
    `mux_offered` says whether the receiver of the latest offer was offered rtcp-mux.

    `ice` are our credentials where ICE is done, `nominated` whom the parties' agents have chosen to
    send from, ordered as `learned`. `muxes` says with whom RTCP shares the RTP port where that is
    not simply what both descriptions say.
    """

    ports: tuple[int, int] = (0, 0)
    hosts: tuple[str, str] = ("", "")
    lines: tuple[MediaLine | None, MediaLine | None] = (None, None)
    sources: tuple[Address | None, Address | None] = (None, None)
    rounds: tuple[int, int] = (0, 0)
    learned: tuple[Address | None, Address | None, Address | None, Address | None] = (
        None,
        None,
        None,
        None,
    )

    ice: tuple[Ice | None, Ice | None] = (None, None)
    nominated: tuple[Address | None, Address | None, Address | None, Address | None] = (
        None,
        None,
        None,
        None,
    )
    muxes: tuple[bool, bool] | None = None
    mux_offered: bool | None = None

    def learned_of(self, side: int, component: Component) -> Address | None:
        return self.learned[2 * side + int(component is Component.RTCP)]


class KeptReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry of the reply cache; `at_ns` is the time of the event that it answered."""

    at_ns: int
    reply: Reply


class Rest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A port pair that the call gave back, by its even port, and when."""

    at_ns: int
    port: int


class Treatment(enum.StrEnum):
    """What is ordered about the media that one side sends."""

    BLOCKED = "blocked"  # nothing of it passes
    SILENCED = "silenced"  # its audio does not pass, its RTCP does
    DTMF_BLOCKED = "dtmf-blocked"  # its telephone events do not pass (RFC 4733)
    FORWARDED = "forwarded"  # it is copied to the recorder


class Recording(enum.StrEnum):
    OFF = "off"
    ON = "on"
    PAUSED = "paused"


class Orders(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was ordered of a call besides offers and answers. Pairs are by side.

    `ends_ns`: a deletion was put off until then; 0: none was. `unless_heard`: the end is that of
    a callee who is in force again and has not confirmed it: media does.
    """

    treatments: tuple[tuple[Treatment, ...], tuple[Treatment, ...]] = ((), ())
    recording: Recording = Recording.OFF
    labels: tuple[str, str] = ("", "")
    ends_ns: int = 0
    unless_heard: bool = False

    @property
    def copied(self) -> bool:
        """Is any of the call's media to be copied to user space?"""
        first, second = self.treatments
        return (
            self.recording is Recording.ON
            or Treatment.FORWARDED in first
            or Treatment.FORWARDED in second
        )


class Fork(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A callee that is not in force: not answered yet (no `tag`), or followed by another one's
    answer. `lines` is what it answered, by m-line."""

    tag: str
    branch: str = ""
    lines: tuple[MediaLine, ...] = ()


class Session(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A call. Compares by value; one canonical encoding (the journal's checkpoint).

    `changed_ns` is when the last offer or the end arrived. `realms`, `families` (0 unknown) and
    `tags` are by side. `offered` is the description that awaits its answer, by `offerer`.
    `observed` says, by side, that its address is the one that its signalling came from. `rests`
    are the ports that nobody may have for a while, whoever owns the group then. `branch` is the
    via-branch of side 1 as it is in force, `forks` the other callees. `created_s` and `signalled_s`
    (the last offer or answer) are Unix seconds. `wishes` are, by side, what commands have said last
    of ICE and of rtcp-mux towards it. Fields are only ever appended.
    """

    group: str
    call_id: str
    state: State = State.NEW
    created_ns: int = 0
    changed_ns: int = 0
    realms: tuple[str, str] = ("", "")
    families: tuple[int, int] = (0, 0)
    tags: tuple[str, str] = ("", "")
    settings: tuple[str, ...] = ()
    offerer: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    offered: tuple[MediaLine, ...] = ()
    streams: tuple[Stream, ...] = ()
    replies: tuple[KeptReply, ...] = ()
    observed: tuple[bool, bool] = (False, False)
    rests: tuple[Rest, ...] = ()
    orders: Orders = Orders()
    branch: str = ""
    forks: tuple[Fork, ...] = ()
    created_s: int = 0
    signalled_s: int = 0
    wishes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def side_of(self, from_tag: str, to_tag: str) -> int:
        """Which side speaks. An in-dialog request of side 1 carries the tags swapped."""
        first, second = self.tags
        if from_tag == first:
            return 0
        if second and from_tag == second:
            return 1
        return 1 if to_tag and to_tag == first else 0

    def deadline_ns(self) -> int | None:
        """When an Expired event is due, None when the call may last for ever."""
        if self.state is State.DELETED:
            last_ns = self.replies[-1].at_ns if self.replies else 0
            return max(self.changed_ns, last_ns) + REPLY_KEPT_MS * NS_PER_MS
        ends_ns = self.orders.ends_ns or None
        if self.state is State.OFFERED:
            half_open_ns = self.changed_ns + HALF_OPEN_MAX_MS * NS_PER_MS
            return half_open_ns if ends_ns is None else min(ends_ns, half_open_ns)
        return ends_ns

    def kept_reply(self, cookie: str) -> Reply | None:
        for kept in self.replies:
            if kept.reply.cookie == cookie:
                return kept.reply
        return None

    def ports(self) -> set[int]:
        """The even ports of the pairs that the call holds."""
        return {port for stream in self.streams for port in stream.ports if port}

    def last_ns(self) -> int:
        """The latest time that the call has heard of."""
        last = self.replies[-1].at_ns if self.replies else 0
        return max(self.changed_ns, last, *(rest.at_ns for rest in self.rests))
