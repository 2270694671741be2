"""One call as a frozen value, and the table that says what each command does to it.

Knows: which state allows which command, replies kept for repeated cookies, tombstones. Must not
know the port pool, clocks, peers, sockets or the node's role: ports and time arrive inside events.
What an offer or an answer says is read in `session_offers`.

The rules:
- An offer reserves a port pair towards each side per m-line; its flows exist with CLOSED gates.
- An offer changes nothing that already flows (RFC 3264 section 8.3.1: the old description is
  valid until the answer); the answer puts both descriptions in force and opens the gates.
  One exception: asking for another IP version towards the receiver moves our address at once.
- Pairs stay for as long as the m-line is wanted: over re-offers, forked answers (the last one
  wins) and an answer that rejects the line; they go when an offer with port 0 is answered.
- A hold by 0.0.0.0 means that there is nowhere to send to: the gate towards that party closes.
  sendonly, recvonly and inactive are the parties' own affair: the pinholes stay open. 0.0.0.0 with
  port 9 and ICE is no hold: the gates open as soon as its agent has nominated somebody.
- A repeated cookie gets the same reply and has no other effect. A deleted call stays as a
  tombstone until nobody can still be asking with an old cookie. A command about a call that is not
  here leaves one too: repeated, it must not meet a call that has begun since.
- A refused command changes nothing but the reply cache.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from bgf import session_flows, session_offers, session_orders
from bgf.errors import Malformed, Misuse, PeerError, UnknownCall
from bgf.events import (
    Abandoned,
    Command,
    Event,
    Expired,
    Heard,
    Learned,
    Nominated,
    Notify,
    Relatch,
    Reply,
    Result,
    Seen,
    Silent,
    Verb,
)
from bgf.session_flows import flows
from bgf.session_ice import ENTROPY_BYTES, wants_entropy
from bgf.session_offers import STREAMS_MAX, demand, has_looped
from bgf.session_values import (
    HALF_OPEN_MAX_MS,
    NS_PER_MS,
    PORT_REST_MAX_MS,
    REPLY_KEPT_MS,
    RESTS_MAX,
    KeptReply,
    Rest,
    Session,
    Site,
    State,
    Stream,
)

__all__ = [
    "ENTROPY_BYTES",
    "HALF_OPEN_MAX_MS",
    "NS_PER_MS",
    "REPLY_KEPT_MS",
    "STREAMS_MAX",
    "TABLE",
    "Action",
    "Rest",
    "Session",
    "Site",
    "State",
    "Step",
    "Stream",
    "Trigger",
    "apply",
    "demand",
    "flows",
    "has_looped",
    "wants_entropy",
]

REPLIES_MAX: Final = 16  # per call, within REPLY_KEPT_MS
CALL_ID_MAX_BYTES: Final = 256


class Trigger(enum.StrEnum):
    OFFER = "offer"
    ANSWER = "answer"
    DELETE = "delete"
    ORDER = "order"
    EXPIRED = "expired"
    LEARNED = "learned"
    NOMINATED = "nominated"
    RELATCH = "relatch"
    SILENT = "silent"
    ABANDONED = "abandoned"
    HEARD = "heard"


class Action(enum.StrEnum):
    OPEN = "open"  # a call begins, or begins anew under an old Call-ID
    OFFER = "offer"
    ANSWER = "answer"
    DELETE = "delete"  # one callee of several, later, or now
    CLOSE = "close"
    ORDER = "order"
    GONE = "gone"  # nothing to delete: ok with a warning
    UNKNOWN = "unknown"
    FORGET = "forget"  # the session leaves the machine
    LEARN = "learn"
    NOMINATE = "nominate"
    RELATCH = "relatch"
    CONFIRM = "confirm"  # it does not end at a deadline that it had without media
    NOTIFY = "notify"  # nothing changes, somebody is told
    IGNORE = "ignore"


S, T, A = State, Trigger, Action

TABLE: Final[dict[tuple[State, Trigger], tuple[Action, tuple[State, ...]]]] = {
    # (state, trigger): (action, the states it may lead to when it is not refused)
    (S.NEW, T.OFFER): (A.OPEN, (S.OFFERED,)),
    (S.NEW, T.ANSWER): (A.UNKNOWN, ()),
    (S.NEW, T.DELETE): (A.GONE, (S.DELETED,)),
    (S.NEW, T.EXPIRED): (A.IGNORE, (S.NEW,)),
    (S.OFFERED, T.OFFER): (A.OFFER, (S.OFFERED,)),
    (S.OFFERED, T.ANSWER): (A.ANSWER, (S.ESTABLISHED,)),
    (S.OFFERED, T.DELETE): (A.DELETE, (S.OFFERED, S.DELETED)),
    (S.OFFERED, T.EXPIRED): (A.CLOSE, (S.DELETED,)),
    (S.ESTABLISHED, T.OFFER): (A.OFFER, (S.REOFFERED,)),
    (S.ESTABLISHED, T.ANSWER): (A.ANSWER, (S.ESTABLISHED,)),  # a fork, or 200 after 183
    (S.ESTABLISHED, T.DELETE): (A.DELETE, (S.ESTABLISHED, S.OFFERED, S.DELETED)),
    (S.ESTABLISHED, T.EXPIRED): (A.CLOSE, (S.DELETED,)),  # of a put-off end
    (S.REOFFERED, T.OFFER): (A.OFFER, (S.REOFFERED,)),  # the earlier one was rejected, or glare
    (S.REOFFERED, T.ANSWER): (A.ANSWER, (S.ESTABLISHED, S.REOFFERED)),
    (S.REOFFERED, T.DELETE): (A.DELETE, (S.REOFFERED, S.OFFERED, S.DELETED)),
    (S.REOFFERED, T.EXPIRED): (A.CLOSE, (S.DELETED,)),
    (S.DELETED, T.OFFER): (A.OPEN, (S.OFFERED,)),
    (S.DELETED, T.ANSWER): (A.UNKNOWN, ()),
    (S.DELETED, T.DELETE): (A.GONE, (S.DELETED,)),
    (S.DELETED, T.EXPIRED): (A.FORGET, (S.NEW,)),
    # The answerer's ICE agent may be done before his answer has come.
    **{
        (state, T.NOMINATED): (A.NOMINATE, (state,))
        for state in (S.OFFERED, S.ESTABLISHED, S.REOFFERED)
    },
    **{(state, T.NOMINATED): (A.IGNORE, (state,)) for state in (S.NEW, S.DELETED)},
    (S.NEW, T.ORDER): (A.UNKNOWN, ()),
    (S.OFFERED, T.ORDER): (A.ORDER, (S.OFFERED,)),
    (S.ESTABLISHED, T.ORDER): (A.ORDER, (S.ESTABLISHED,)),
    (S.REOFFERED, T.ORDER): (A.ORDER, (S.REOFFERED,)),
    (S.DELETED, T.ORDER): (A.UNKNOWN, ()),
    **{
        (state, trigger): (A.IGNORE, (state,))
        for state in (S.NEW, S.OFFERED, S.DELETED)
        for trigger in (T.LEARNED, T.RELATCH, T.SILENT, T.ABANDONED, T.HEARD)
    },
    (S.ESTABLISHED, T.LEARNED): (A.LEARN, (S.ESTABLISHED,)),
    (S.ESTABLISHED, T.RELATCH): (A.RELATCH, (S.ESTABLISHED,)),
    (S.ESTABLISHED, T.SILENT): (A.NOTIFY, (S.ESTABLISHED,)),
    (S.ESTABLISHED, T.ABANDONED): (A.CLOSE, (S.DELETED,)),
    (S.ESTABLISHED, T.HEARD): (A.CONFIRM, (S.ESTABLISHED,)),
    (S.REOFFERED, T.LEARNED): (A.LEARN, (S.REOFFERED,)),
    (S.REOFFERED, T.RELATCH): (A.RELATCH, (S.REOFFERED,)),
    (S.REOFFERED, T.SILENT): (A.NOTIFY, (S.REOFFERED,)),
    (S.REOFFERED, T.ABANDONED): (A.CLOSE, (S.DELETED,)),
    (S.REOFFERED, T.HEARD): (A.CONFIRM, (S.REOFFERED,)),
}


class Step(NamedTuple):
    """What an event makes of a session: None when the machine may forget it."""

    session: Session | None
    reply: Reply | None = None
    notice: Notify | None = None


def apply(session: Session | None, event: Event, site: Site) -> Step:
    """The step of one call: pure. A peer's error becomes an error reply, kept like any other.

    Raises Misuse when the event lacks the ports that `demand` asked for.
    """
    if isinstance(event, Command):
        step = _command(session, event, site)
    elif isinstance(event, Expired):
        step = _expire(session, event)
    else:
        step = _see(session, event, site)
    if session is None or step.session is None or step.session.streams is session.streams:
        return step
    return step._replace(session=_rest(session, step.session, event.now_ns))


def trigger_of(verb: Verb) -> Trigger:
    """The trigger of a command that reaches a session."""
    return Trigger.ORDER if verb in session_orders.ORDERS else Trigger(verb.value)


def _command(session: Session | None, event: Command, site: Site) -> Step:
    trigger = trigger_of(event.verb)
    if session is not None and (kept := session.kept_reply(event.cookie)):
        if kept.media and len(kept.media) != len(event.media):
            why = f"cookie {event.cookie[:64]} was another command's: each needs its own"
            return Step(session, Reply(event.cookie, Result.ERROR, why))
        return Step(session, kept)
    current = session or Session(site.group.id, event.call_id)
    action, allowed = TABLE[current.state, trigger]
    try:
        if not event.call_id:
            raise Malformed("the command has no call-id: it names no call")
        if len(event.call_id.encode("utf-8", "replace")) > CALL_ID_MAX_BYTES:
            raise Malformed(f"call-id is longer than {CALL_ID_MAX_BYTES} bytes")
        after, reply = _ACTIONS[action](current, event, site)
        if trigger in (Trigger.OFFER, Trigger.ANSWER):
            after = session_orders.described(current, after, event)
    except PeerError as error:
        reply = Reply(event.cookie, Result.ERROR, error.reason)
        if session is None and not isinstance(error, UnknownCall):
            return Step(None, reply)
        return Step(_keep(session or _tombstone(current, event.now_ns), event, reply), reply)
    if after.state not in allowed:
        raise Misuse(f"call {event.call_id}: {current.state} + {trigger} led to {after.state}")
    return Step(_keep(after, event, reply), reply)


def _see(session: Session | None, event: Seen, site: Site) -> Step:
    """What the packet path or the operator brings. What is no news changes nothing."""
    if session is None:
        return Step(None)
    action, _ = TABLE[session.state, _TRIGGERS[type(event)]]
    if action is Action.LEARN and isinstance(event, Learned):
        return Step(session_flows.learn(session, event, site.policies))
    if action is Action.NOMINATE and isinstance(event, Nominated):
        return Step(session_flows.nominate(session, event, site.policies))
    if action is Action.RELATCH:
        return Step(session_flows.relatch(session, site.policies))
    if action is Action.CLOSE:
        return Step(_tombstone(session, event.now_ns))
    if action is Action.CONFIRM and isinstance(event, Heard):
        return Step(session_orders.heard(session, event))
    if action is Action.NOTIFY and isinstance(event, Silent):
        flow = flows(session, site.policies).get(event.key)
        if flow is not None and flow.inactivity_ms:
            never = event.last_seen_ns == 0
            return Step(session, None, Notify(session.call_id, event.key, flow.stream, never))
    return Step(session)


_TRIGGERS: Final[dict[type[Seen], Trigger]] = {
    Learned: Trigger.LEARNED,
    Nominated: Trigger.NOMINATED,
    Relatch: Trigger.RELATCH,
    Silent: Trigger.SILENT,
    Abandoned: Trigger.ABANDONED,
    Heard: Trigger.HEARD,
}


# Actions: (session, command, site) -> (session, reply), or a PeerError.


def _delete(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    left, warning = session_orders.delete(session, command)
    after = _tombstone(session, command.now_ns) if left is None else left
    reply = Reply(command.cookie, Result.OK, warning=warning, created_ns=session.created_ns)
    if command.carried and not warning:
        reply = msgspec.structs.replace(reply, carried=command.carried, created_s=session.created_s)
    return after, reply


def _order(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    after, warning = session_orders.order(session, command)
    return after, Reply(command.cookie, Result.OK, warning=warning, created_ns=session.created_ns)


def _gone(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    if not session.created_ns and session_orders.FATAL in command.flags:  # it never was here
        raise UnknownCall(f"call {command.call_id[:64]} is not here: nothing to delete")
    warning = f"call {command.call_id[:64]} is not here, or no longer: nothing to delete"
    if session.state is State.NEW:
        session = _tombstone(session, command.now_ns)
    return session, Reply(command.cookie, Result.OK, warning=warning)


def _unknown(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    raise UnknownCall(f"call {command.call_id[:64]} is not here: an offer must come first")


_ACTIONS: Final[dict[Action, Callable[[Session, Command, Site], tuple[Session, Reply]]]] = {
    Action.OPEN: session_offers.open_call,
    Action.OFFER: session_offers.offer,
    Action.ANSWER: session_offers.answer,
    Action.DELETE: _delete,
    Action.ORDER: _order,
    Action.GONE: _gone,
    Action.UNKNOWN: _unknown,
}


def _expire(session: Session | None, event: Expired) -> Step:
    """An early event (the deadline has moved since) is ignored."""
    deadline_ns = session.deadline_ns() if session is not None else None
    if session is None or deadline_ns is None or event.now_ns < deadline_ns:
        return Step(session)
    action, _ = TABLE[session.state, Trigger.EXPIRED]
    if action is Action.CLOSE:
        return Step(_tombstone(session, event.now_ns))
    return Step(None if action is Action.FORGET else session)


def _tombstone(session: Session, now_ns: int) -> Session:
    return Session(
        session.group,
        session.call_id,
        State.DELETED,
        created_ns=session.created_ns,
        changed_ns=now_ns,
        replies=session.replies,
        rests=session.rests,
    )


def _rest(before: Session, after: Session, now_ns: int) -> Session:
    """Remember which ports were given back: a new owner must know it too."""
    gone = before.ports() - after.ports()
    if not gone and not after.rests:
        return after
    oldest_ns = now_ns - PORT_REST_MAX_MS * NS_PER_MS
    given = [Rest(now_ns, port) for port in sorted(gone)]
    kept = [rest for rest in after.rests if rest.at_ns > oldest_ns]
    rests = tuple([*kept, *given][-RESTS_MAX:])
    return after if rests == after.rests else msgspec.structs.replace(after, rests=rests)


def _keep(session: Session, command: Command, reply: Reply) -> Session:
    """Add to the reply cache, bounded in time and number."""
    if not command.cookie:
        return session
    oldest_ns = command.now_ns - REPLY_KEPT_MS * NS_PER_MS
    kept = [entry for entry in session.replies[1 - REPLIES_MAX :] if entry.at_ns > oldest_ns]
    kept.append(KeptReply(command.now_ns, reply))
    return msgspec.structs.replace(session, replies=tuple(kept))
