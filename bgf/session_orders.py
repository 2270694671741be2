"""Orders: what a controller may want of a call's media besides offers and answers.

Knows: whom a command means (a tag, a label, an address, everybody), what each order changes, and
which callee a deletion is about when a call was forked. Must not know how media is stopped
(`session_flows`), copied or written down: those follow from the value.

A deletion means one callee when it names one, by tag or by branch; the call ends with its last. As
long as callees are left, the latest of them is in force again, and has the time of a half-open call
to be answered: nobody says which of them has picked up. One that did so in a reliable 183 says no
more (RFC 3262 section 5): a call that has media when the time is over goes on, as with rtpengine,
which ends no call that has any. Source: rtpengine's `ng` manual.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from bgf import session_ice
from bgf.errors import UnknownCall
from bgf.events import CallReport, Command, Heard, MediaLine, Party, Verb
from bgf.session_flows import agreed, relatched
from bgf.session_ice import FLAGS_CACHED_MAX
from bgf.session_values import (
    HALF_OPEN_MAX_MS,
    NS_PER_MS,
    Fork,
    Orders,
    Recording,
    Session,
    State,
    Stream,
    Treatment,
)

FORKS_MAX: Final = 16  # callees of one call besides the one in force; the oldest give way
DELETE_DELAY_MAX_S: Final = 3_600
HEARD_MAX_MS: Final = 30_000  # RTCP comes every 5 s or so where a party says nothing
LABEL_CHARS_MAX: Final = 128
LIST_DEFAULT: Final = 32
LIST_MAX: Final = 10_000
FATAL: Final = "fatal"
ALL: Final = "all"

_TREATMENTS: Final[dict[Verb, tuple[Treatment, bool]]] = {
    Verb.BLOCK_MEDIA: (Treatment.BLOCKED, True),
    Verb.UNBLOCK_MEDIA: (Treatment.BLOCKED, False),
    Verb.SILENCE_MEDIA: (Treatment.SILENCED, True),
    Verb.UNSILENCE_MEDIA: (Treatment.SILENCED, False),
    Verb.BLOCK_DTMF: (Treatment.DTMF_BLOCKED, True),
    Verb.UNBLOCK_DTMF: (Treatment.DTMF_BLOCKED, False),
    Verb.START_FORWARDING: (Treatment.FORWARDED, True),
    Verb.STOP_FORWARDING: (Treatment.FORWARDED, False),
}
_RECORDINGS: Final[dict[Verb, Recording]] = {
    Verb.START_RECORDING: Recording.ON,
    Verb.PAUSE_RECORDING: Recording.PAUSED,
    Verb.STOP_RECORDING: Recording.OFF,
}
ORDERS: Final = frozenset({*_TREATMENTS, *_RECORDINGS})
_RECORD_CALL: Final = {
    "on": Recording.ON,
    "yes": Recording.ON,
    "off": Recording.OFF,
    "no": Recording.OFF,
}


def value_of(command: Command, key: str) -> str:
    """What a `key=value` flag says, empty when there is none."""
    return _value(command.flags, key)


@functools.lru_cache(maxsize=FLAGS_CACHED_MAX)
def _value(flags: tuple[str, ...], key: str) -> str:
    prefix = f"{key}="
    return next((flag.removeprefix(prefix) for flag in flags if flag.startswith(prefix)), "")


def number_of(command: Command, key: str, default: int, most: int) -> int:
    """A number that a flag gives, at most `most`; the default when it gives none."""
    digits = value_of(command, key)
    if not digits.isascii() or not digits.isdigit():
        return default
    return int(digits) if len(digits) <= len(str(most)) and int(digits) < most else most


def order(session: Session, command: Command) -> tuple[Session, str]:
    """The call as ordered, and a warning. Raises UnknownCall for a party that is not there."""
    orders = session.orders
    if command.verb in _RECORDINGS:
        wanted = _RECORDINGS[command.verb]
        if wanted is Recording.PAUSED and orders.recording is Recording.OFF:
            return session, "the call is not being recorded: nothing to pause"
        return _ordered(session, msgspec.structs.replace(orders, recording=wanted)), ""
    treatment, on = _TREATMENTS[command.verb]
    meant = _meant(session, command)
    treatments = [
        _with(treated, treatment, on) if side in meant else treated
        for side, treated in enumerate(orders.treatments)
    ]
    after = msgspec.structs.replace(orders, treatments=(treatments[0], treatments[1]))
    warning = ""
    if on and treatment is Treatment.DTMF_BLOCKED:
        warning = _untouched(session)
    return _ordered(session, after), warning


def described(before: Session, after: Session, command: Command) -> Session:
    """What an offer or an answer says besides its description; it also calls a put-off end off."""
    offers = command.verb is Verb.OFFER
    side = after.offerer if offers else int(command.to_tag != after.tags[0])
    orders = after.orders
    label = value_of(command, "label") or value_of(command, "from-label")
    if label:
        labels = list(orders.labels)
        labels[side] = label[:LABEL_CHARS_MAX]
        orders = msgspec.structs.replace(orders, labels=(labels[0], labels[1]))
    recording = _RECORD_CALL.get(value_of(command, "record-call"), orders.recording)
    if recording is not orders.recording:
        orders = msgspec.structs.replace(orders, recording=recording)
    if orders.ends_ns:
        orders = msgspec.structs.replace(orders, ends_ns=0, unless_heard=False)
    branch, forks = _offered(after, command) if offers else _answered(before, after, command)
    return msgspec.structs.replace(
        after,
        orders=orders,
        branch=branch,
        forks=forks,
        created_s=after.created_s or command.wall_s,
        signalled_s=command.wall_s,
    )


def delete(session: Session, command: Command) -> tuple[Session | None, str]:
    """The call after a deletion, None when it ends now, and a warning.

    Raises UnknownCall for a party that is not there, when that is to be `fatal`.
    """
    fork = _fork_meant(session, command)
    if fork is None:
        named = command.to_tag or command.from_tag
        why = f"call {session.call_id[:64]} has no party with tag '{named[:64]}': nothing deleted"
        if FATAL in command.flags:
            raise UnknownCall(why)
        return session, why
    if fork:
        left = _without(session, fork, command)
        if left is not None:
            return left, ""
    delay_s = number_of(command, "delete-delay", 0, DELETE_DELAY_MAX_S)
    if not delay_s:
        return None, ""
    ends_ns = command.now_ns + delay_s * 1_000 * NS_PER_MS
    orders = msgspec.structs.replace(session.orders, ends_ns=ends_ns, unless_heard=False)
    return _ordered(session, orders), ""


def heard(session: Session, event: Heard) -> Session:
    """The call with the callee in force for good, now that media says so; the same one where that
    is no news, or media is of long ago."""
    if not session.orders.unless_heard or event.ago_ms > HEARD_MAX_MS:
        return session
    orders = msgspec.structs.replace(session.orders, ends_ns=0, unless_heard=False)
    return _ordered(session, orders)


def list_length(command: Command) -> int:
    """How many calls a `list` wants to be told."""
    return number_of(command, "limit", LIST_DEFAULT, LIST_MAX)


def report(session: Session) -> CallReport:
    """What a query tells of a call besides its flows."""
    orders = session.orders
    return CallReport(
        session.created_s,
        session.signalled_s,
        (_party(session, 0, "", orders), _party(session, 1, session.branch, orders)),
        tuple((_told(stream.lines[0]), _told(stream.lines[1])) for stream in session.streams),
        orders.recording.value,
    )


def _party(session: Session, side: int, branch: str, orders: Orders) -> Party:
    treatments = tuple(treatment.value for treatment in orders.treatments[side])
    return Party(session.tags[side], orders.labels[side], branch, treatments)


def _told(line: MediaLine | None) -> tuple[str, str, str]:
    return ("", "", "") if line is None else (line.kind, line.transport, line.direction)


# Whom a command means.


def _meant(session: Session, command: Command) -> set[int]:
    """The sides whose media a command is about: the first that is given of label, address, tag."""
    if ALL in command.flags:
        return {0, 1}
    label = value_of(command, "label") or value_of(command, "from-label")
    address = value_of(command, "address")
    if label:
        sides = {side for side in (0, 1) if session.orders.labels[side] == label}
        what = f"label '{label[:64]}'"
    elif address:
        lines = [(side, stream.lines[side]) for stream in session.streams for side in (0, 1)]
        sides = {side for side, line in lines if line is not None and line.rtp.host == address}
        what = f"media address {address[:64]}"
    elif command.from_tag:
        sides = {side for side in (0, 1) if session.tags[side] == command.from_tag}
        what = f"tag '{command.from_tag[:64]}'"
    else:
        return {0, 1}
    if not sides:
        raise UnknownCall(f"call {session.call_id[:64]} has no party with {what}")
    return sides


def _fork_meant(session: Session, command: Command) -> str | None:
    """The callee that a deletion is about, as `tag TAG` or `branch BRANCH`; '' for the whole call,
    None for nobody of it."""
    caller, callee = session.tags
    by_branch = ""
    if command.via_branch:
        known = {session.branch, *(fork.branch for fork in session.forks)} - {""}
        if command.via_branch in known:
            by_branch = f"branch {command.via_branch}"
    if not command.from_tag:
        return ""
    if not command.to_tag and by_branch:
        return by_branch
    named = command.to_tag or command.from_tag
    if named == caller:
        return ""
    if named == callee or any(fork.tag == named for fork in session.forks):
        return f"tag {named}"
    if by_branch:
        return by_branch
    if command.to_tag and command.from_tag == caller and not callee:
        return ""  # it failed before it had said anything
    return None


def _without(session: Session, meant: str, command: Command) -> Session | None:
    """The call without one of its callees; None when that was its last."""
    kind, _, name = meant.partition(" ")
    in_force = name in (session.tags[1] if kind == "tag" else session.branch,)
    gone = [f for f in session.forks if (f.tag if kind == "tag" else f.branch) == name]
    forks = tuple(fork for fork in session.forks if fork not in gone)
    if not in_force:
        answered = bool(session.tags[1]) or any(fork.tag for fork in forks)
        return msgspec.structs.replace(session, forks=forks) if forks or answered else None
    if not forks:
        return None
    # The latest that has answered, or else everybody still has to.
    back = next((fork for fork in reversed(forks) if fork.tag), None)
    ends_ns = command.now_ns + HALF_OPEN_MAX_MS * NS_PER_MS
    orders = msgspec.structs.replace(session.orders, ends_ns=ends_ns, unless_heard=back is not None)
    left = _ordered(session, orders)
    if back is not None:
        streams = tuple(
            _again(session, stream, line) if stream.ports[0] else stream
            for stream, line in zip(session.streams, _padded(back.lines, session), strict=True)
        )
        return msgspec.structs.replace(
            left,
            tags=(session.tags[0], back.tag),
            branch=back.branch,
            forks=tuple(fork for fork in forks if fork is not back),
            streams=streams,
        )
    offered = tuple(line for stream in session.streams if (line := stream.lines[0]) is not None)
    return msgspec.structs.replace(
        left,
        state=State.OFFERED,
        changed_ns=command.now_ns,
        tags=(session.tags[0], ""),
        branch="",
        forks=forks,
        offerer=0,
        offered=offered,
        streams=tuple(map(_unanswered, session.streams)),
    )


def _unanswered(stream: Stream) -> Stream:
    """The stream as it was before anybody had answered, but for our own ports and addresses."""
    if stream.ports[0]:
        stream = session_ice.without_nominee(relatched(stream, 1), 1)
    return msgspec.structs.replace(
        stream,
        lines=(stream.lines[0], None),
        sources=(stream.sources[0], None),
        muxes=None,
    )


def _again(session: Session, stream: Stream, line: MediaLine | None) -> Stream:
    """The stream with another callee's description in force; as it is while it is only offered."""
    first = stream.lines[0]
    if first is None or line is None:
        return stream
    told_mux = stream.mux_offered if session.offerer == 0 else None
    muxes = session_ice.agreed_muxes(stream, 1, (first, line), session.wishes[1], told_mux)
    before = agreed(stream, stream.hosts, (first, line))
    return session_ice.with_muxes(session_ice.without_nominee(before, 1), muxes)


def _padded(lines: tuple[MediaLine, ...], session: Session) -> tuple[MediaLine | None, ...]:
    """One line for each stream; what the callee was never asked for, it has rejected. None for a
    stream that nobody has answered yet."""
    missing = session.streams[len(lines) :]
    rejected = [
        None
        if (line := stream.lines[0]) is None
        else msgspec.structs.replace(line, rtp=msgspec.structs.replace(line.rtp, port=0), rtcp=None)
        for stream in missing
    ]
    return (*lines, *rejected)[: len(session.streams)]


# Callees come and go.


def _offered(after: Session, command: Command) -> tuple[str, tuple[Fork, ...]]:
    """An offer that begins a call names its branch, when it does: one callee to come."""
    branch, forks = after.branch, after.forks
    begins = after.state is State.OFFERED and after.offerer == 0
    if not begins or not command.via_branch:
        return branch, forks
    if any(fork.branch == command.via_branch for fork in forks):
        return branch, forks
    return branch, (*forks, Fork("", command.via_branch))[-FORKS_MAX:]


def _answered(before: Session, after: Session, command: Command) -> tuple[str, tuple[Fork, ...]]:
    """The callee that answers is in force; who was so before is kept, should this one go."""
    if after.tags[1] == before.tags[1]:
        if not before.branch and command.via_branch and command.to_tag == after.tags[1]:
            rest = tuple(fork for fork in after.forks if fork.branch != command.via_branch)
            return command.via_branch, rest
        return after.branch, after.forks
    forks = list(after.forks)
    branch = command.via_branch
    unanswered = [fork for fork in forks if not fork.tag]
    for fork in forks:
        same = fork.tag == after.tags[1] or (not fork.tag and fork.branch == branch and branch)
        if same or (not branch and [fork] == unanswered):
            forks.remove(fork)
            branch = fork.branch
            break
    if before.tags[1] and before.state is not State.OFFERED:
        lines = tuple(line for s in before.streams if (line := s.lines[1]) is not None)
        forks.append(Fork(before.tags[1], before.branch, lines))
    return branch, tuple(forks[-FORKS_MAX:])


def _ordered(session: Session, orders: Orders) -> Session:
    return session if orders == session.orders else msgspec.structs.replace(session, orders=orders)


def _with(treated: tuple[Treatment, ...], one: Treatment, on: bool) -> tuple[Treatment, ...]:
    return tuple(sorted({*treated, one} if on else {*treated} - {one}))


def _untouched(session: Session) -> str:
    """Why no telephone event may be found, where none can be."""
    lines = [line for stream in session.streams for line in stream.lines if line is not None]
    lines += session.offered
    if not any(line.dtmf_types for line in lines):
        return "no m-line names telephone-event: there is nothing to block yet"
    if all("TLS" in line.transport.upper() for line in lines if line.dtmf_types):
        return "keys are exchanged on the media port (DTLS): telephone events pass"
    return ""
