"""What the machine decided is done here: active and standby hands, and their driver.

Knows: the order in which things must happen, and the narrow interfaces of those who do them.
Decides nothing about calls: `Gateway` does. Must not know sockets, DAL or the XDP program.

The order on an active: check the epoch -> mark the call -> journal entry committed -> machine
stepped -> flows recorded -> packet path -> reply. A crash between any two leaves at most the
marked call unsettled: whoever takes over restores that one first, the rest when asked for.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from bgf.errors import (
    BgfError,
    DatapathError,
    Fenced,
    InDoubt,
    Misuse,
    NotNow,
    PortsExhausted,
    PortsLeaked,
    PortsUnbindable,
    StateError,
    Unreadable,
)
from bgf.events import (
    Command,
    DropFlow,
    Effect,
    Expired,
    Forget,
    Heard,
    Notify,
    PutFlow,
    Reply,
    Result,
    Seen,
)
from bgf.found import Found, FoundFlows
from bgf.gateway import Gateway, Plan, reconcile
from bgf.journal import Record, Recorder, replay
from bgf.model import Flow, FlowKey, Gate
from bgf.records import FlowStore, Journal

EXPIRED_BATCH_MAX: Final = 256  # events per tick, so that timers never starve commands
RESTORE_BATCH_MAX: Final = 64  # sessions per background round
READ_AHEAD_MAX: Final = 256  # journals read in one journey, which takes longer than reading one
AUDIT_BATCH_MAX: Final = 256  # port pairs looked at per tick
_OF_FLOWS: Final = (PutFlow, DropFlow)
FAILURES_KEPT_MAX: Final = 100  # last problems, for the operator


class Pinholes(Protocol):
    """What hands need of a packet path (`bgf.media.datapath.Datapath` has it). Idempotent."""

    def install(self, flows: Sequence[Flow]) -> None: ...

    def remove(self, keys: Iterable[FlowKey]) -> None: ...

    def keys(self) -> set[FlowKey]: ...


class Replier(Protocol):
    """Sends a reply to whoever asked with this cookie; forgets it when nobody is known."""

    def reply(self, cookie: str, reply: Reply) -> None: ...


class Notifier(Protocol):
    """Tells whoever controls a call what its media does, where there is a way to tell."""

    def notify(self, notice: Notify) -> None: ...


class NobodyToNotify:
    """For control protocols that have no such message."""

    def notify(self, notice: Notify) -> None:
        """Does nothing."""


HeardMsAgo = Callable[[Sequence[Flow]], int | None]
"""How long ago the latest packet passed any of these pinholes here, None for never. Raises
DatapathError."""


class Hands(Protocol):
    def perform(self, effects: Sequence[Effect]) -> None:
        """Carry the effects out, in the order that this kind of hands keeps."""


class ActiveHands:
    """Everything for real, reply last."""

    def __init__(
        self,
        journal: Journal,
        flows: FlowStore,
        datapath: Pinholes,
        replier: Replier,
        notifier: Notifier | None = None,
    ) -> None:
        self.journal = journal
        self._notifier = notifier or NobodyToNotify()
        self._flows = flows
        self._datapath = datapath
        self._replier = replier

    def commit(self, record: Record) -> None:
        """Write ahead. Raises Fenced or StateError: then nothing may be performed."""
        self.journal.mark(record.call_id)
        if record.replace:
            self.journal.replace(record.call_id, record.entries)
        else:
            self.journal.append(record.call_id, record.entries[0])

    def record(self, call_id: str, flows: Sequence[Flow]) -> None:
        """What the call's flows are from now on; before what comes of it is performed."""
        self._flows.record(call_id, flows)

    def perform(self, effects: Sequence[Effect]) -> None:
        """Raises StateError, Fenced or DatapathError; what follows the failure is not done."""
        said = _install(self._datapath, effects)
        for effect in said:
            if isinstance(effect, Forget):
                self.journal.forget(effect.call_id)
        for effect in said:
            if isinstance(effect, Reply):
                self._replier.reply(effect.cookie, effect)
            elif isinstance(effect, Notify):
                self._notifier.notify(effect)

    def refresh(self, flows: Sequence[Flow]) -> None:
        """Make sure that recorded flows are in the packet path. Raises DatapathError."""
        if flows:
            self._datapath.install(flows)

    def sweep(self, hosts: Collection[str], wanted: Callable[[FlowKey], bool]) -> int:
        """Close pinholes on `hosts` that are not `wanted`. Returns how many."""
        surplus = [k for k in self._datapath.keys() if k.host in hosts and not wanted(k)]  # noqa: SIM118
        if surplus:
            self._datapath.remove(surplus)
        return len(surplus)


class StandbyHands:
    """Pinholes kept hot from the feed; nothing recorded, nobody answered, nothing armed."""

    def __init__(self, datapath: Pinholes) -> None:
        self._datapath = datapath

    def perform(self, effects: Sequence[Effect]) -> None:
        """Raises DatapathError."""
        _install(self._datapath, effects)


class Outcome(enum.StrEnum):
    """What became of a command, for counting. A `failed` one is tried again when it is repeated."""

    ANSWERED = "answered"
    REFUSED = "refused"  # answered with an error before anything was written
    FENCED = "fenced"  # not ours any more: nothing done, nobody answered
    FAILED = "failed"  # begun, or not even begun, and not carried out: nobody answered


class Driver:
    """One group's machine on the node that owns it: command in, everything done, in order.

    Single-threaded. `failures` are the latest problems, one line each; `tally` counts all of them
    by code. Once `doubtful`, it does no
    more: nobody knows whether an entry is in its journal, so the machine has to be made again from
    what is recorded.
    """

    def __init__(
        self,
        gateway: Gateway,
        recorder: Recorder,
        hands: ActiveHands,
        heard_ms_ago: HeardMsAgo,
    ) -> None:
        self.gateway = gateway
        self.recorder = recorder
        self.hands = hands
        self.fenced = False
        self.doubtful = False
        self.failures: list[str] = []
        self.tally: Counter[str] = Counter()
        self._found: Found = FoundFlows()  # flows of calls that are not restored yet
        self._unagreed: dict[str, None] = {}  # restored, and their flows not looked at yet
        self._doubted = ""  # the call that the last owner was working on
        self._waiting: list[str] | None = []  # calls to restore in the background; None: not listed
        self._ahead: dict[str, Sequence[bytes]] = {}  # journals of some of these
        self._ahead_of = 0  # how many of the last waiting ones were asked for
        self._lost: set[str] = set()  # calls that could not be read: they are tried again
        self._unsettled: dict[str, list[Effect]] = {}  # by call, what was not carried out
        self._audited: list[int] = []  # port pairs that the audit has not come to yet
        self.heard_ms_ago = heard_ms_ago
        self.restored_ns: dict[str, int] = {}  # calls that another owner began, and since when here

    def handle(self, command: Command, entropy: int) -> Outcome:
        """Carry out one command; `entropy` chooses its ports. Raises nothing that a peer causes."""
        if self.fenced:
            return Outcome.FENCED
        if self.doubtful:
            return Outcome.FAILED
        try:
            self.hands.journal.check()  # what writes nothing would not notice
            self._settle()
            self.restore(command.call_id, command.now_ns)
        except Fenced as error:
            return self._fence(error)
        except (Unreadable, Misuse) as error:
            return self._refuse(command, error)
        except (StateError, DatapathError) as error:
            return self._fail(error)
        try:
            plan = self.gateway.plan(self.gateway.draw(command, entropy))
        except (PortsExhausted, Misuse) as error:
            return self._refuse(command, error)
        return self._carry_out(plan, command)

    def see(self, event: Seen) -> Outcome:
        """Take in what the packet path or the operator says: like a command, with nobody to answer.

        After FAILED it has to be said again; REFUSED is for good.
        """
        if self.fenced:
            return Outcome.FENCED
        if self.doubtful:
            return Outcome.FAILED
        try:
            self.hands.journal.check()
            self._settle()
            self.restore(event.call_id, event.now_ns)
            plan = self.gateway.plan(event)
        except Fenced as error:
            return self._fence(error)
        except (Unreadable, Misuse) as error:
            return self._refuse(None, error)
        except (StateError, DatapathError) as error:
            return self._fail(error)
        return self._carry_out(plan, None)

    def audit(self, now_ns: int, batch: int = AUDIT_BATCH_MAX) -> int:
        """Look at the next port pairs for one that is held in the name of nobody, round and round.

        Returns how many leaked ones were freed; each is a `PortsLeaked` among the failures.
        """
        if self.fenced or self.doubtful:
            return 0
        if not self._audited:
            self._audited = self.gateway.ports_held()
        leaked = 0
        for _ in range(min(batch, len(self._audited))):
            port = self._audited.pop()
            call_id = self.gateway.leak(port, now_ns)
            if call_id is not None:
                self._note(PortsLeaked(f"port {port} was held for call {call_id}, which lacks it"))
                leaked += 1
        return leaked

    def tick(self, now_ns: int) -> int | None:
        """Apply the events that are due. Returns the next deadline, in the time of calls, ns."""
        if self.doubtful:
            return None
        try:
            self._settle()
        except Fenced as error:
            self._fence(error)
        except StateError as error:
            self._fail(error)
            return self.gateway.next_deadline()
        for _ in range(EXPIRED_BATCH_MAX):
            event = None if self.fenced else self.gateway.due(now_ns)
            if event is None:
                break
            if event.call_id in self._unagreed and not self._note_unless(
                lambda one=event.call_id: self._agree(one)  # type: ignore[misc]
            ):
                break
            try:
                plan = self._heard(event) or self.gateway.plan(event)
            except DatapathError as error:
                self._note(error)  # nobody can say now whether it has media: it does not end
                break
            if self._carry_out(plan, None) is not Outcome.ANSWERED:
                break
        return self.gateway.next_deadline()

    def _heard(self, event: Expired) -> Plan | None:
        """What media makes of a deadline that holds only without it; None when it holds."""
        session = self.gateway.session(event.call_id)
        if session is None or not session.orders.unless_heard:
            return None
        flows = self.gateway.expected_flows(event.call_id)
        ago_ms = self.heard_ms_ago([flow for flow in flows if flow.gate is Gate.OPEN])
        if ago_ms is None:
            return None
        plan = self.gateway.plan(Heard(event.now_ns, event.call_id, ago_ms))
        return plan if plan.changes else None

    def take_over(
        self,
        found: Found,
        now_ns: int,
        rests: Iterable[tuple[int, int]] = (),
        marked: str | None = None,
    ) -> None:
        """Become the owner of a group whose recorded flows are `found`.

        `rests` are ports whose pinholes went lately, and when (ns); `marked` is what the journal's
        `marked` says, for who has just asked. `found` must be all of them, as they stand after the
        older epochs were fenced. Only the call that the last owner was working on is restored now.
        Afterwards call `restore_some` until it returns 0, then `sweep`; commands may come in
        between.

        Raises Fenced, NotNow, InDoubt: that call cannot be read now. Before it is, no other may be
        marked in its place: make another driver, later.
        """
        self._found = found
        self.gateway.adopt(found)
        for port, released_ns in rests:
            self.gateway.rest(port, released_ns)
        self._waiting = None
        self._doubted = self.hands.journal.marked() if marked is None else marked
        try:
            self.restore(self._doubted, now_ns)
        except (Fenced, NotNow, InDoubt):
            raise
        except BgfError as error:
            self._note(error)

    def calls(self) -> set[str]:
        """Calls that are here, or of which flows are recorded."""
        return {*self.gateway.sessions, *self._found.calls()}

    def recorded(self, call_id: str) -> Sequence[Flow]:
        """What is recorded of a call's flows. Raises StateError for what cannot be read."""
        if call_id in self._found.calls():
            return self._found.flows(call_id)
        return self.gateway.expected_flows(call_id)

    def knows(self, call_id: str) -> bool:
        """Is the call here, or perhaps in a journal that is not read yet?"""
        if self.gateway.session(call_id) is not None or call_id in self._found.calls():
            return True
        if self._waiting == []:
            return False
        try:
            return bool(self.hands.journal.entries(call_id))
        except BgfError:
            return True  # nobody can say now: it must not be refused as a new one

    def restore(self, call_id: str, now_ns: int) -> bool:
        """Bring a call in from its journal, and its recorded flows in line with it.

        False when it is here already or nowhere. Raises Unreadable (the call's pinholes stay as
        they are: they carry somebody's voice), Misuse, StateError, Fenced, DatapathError.
        """
        # When all are here there is no need to look: nobody else writes journals of this group.
        here = self._waiting == [] and call_id not in self._lost
        restored = bool(call_id) and not here and self._read(call_id, now_ns)
        if call_id in self._unagreed:
            self._agree(call_id)
        return restored

    def _read(self, call_id: str, now_ns: int) -> bool:
        if self.gateway.session(call_id) is not None:
            self._ahead.pop(call_id, None)
            return False
        self._lost.add(call_id)
        entries = self._ahead.pop(call_id, None)  # from now on the journal may change
        if entries is None:
            entries = self._several([call_id]).get(call_id)
        if entries is None:
            entries = self.hands.journal.entries(call_id)
        if not entries and call_id not in self._found.calls():
            self._lost.discard(call_id)
            return False
        session = replay(entries, self.gateway.site)
        if session is not None:
            self.gateway.restore(session, now_ns)
            self.recorder.resume(call_id, entries)
            self.restored_ns[call_id] = now_ns
        self._lost.discard(call_id)
        self.gateway.disown(call_id, now_ns)
        self._unagreed[call_id] = None
        return session is not None

    def _agree(self, call_id: str) -> None:
        """What is recorded of the call must be what follows from it: it was of another version, or
        the last owner died in between."""
        expected = self.gateway.expected_flows(call_id)
        as_recorded = self._found.says(call_id, expected)
        found = () if as_recorded else self._found.flows(call_id)
        del self._unagreed[call_id]
        self._found.forget(call_id)
        if not as_recorded:
            self._perform(call_id, reconcile(expected, found))
        if not as_recorded or call_id == self._doubted:
            self.hands.refresh(expected)  # what is recorded may not have reached the packet path

    @property
    def restored(self) -> bool:
        """Is every call here that can be?"""
        return self._waiting == []

    @property
    def unread(self) -> int:
        """How many calls are not here yet, as far as is known."""
        return len(self._waiting or ())

    def restore_some(self, now_ns: int, batch: int = RESTORE_BATCH_MAX) -> int:
        """Restore up to `batch` calls in the background; when all are here, bring what is recorded
        of as many in line. Returns how many steps are left: two for a call that is not here, one
        for a call whose flows were not looked at."""
        if self._waiting is None:
            known = {*self.hands.journal.calls(), *self._found.calls()}
            self._waiting = sorted(known.difference(self.gateway.sessions))
        left = batch
        if self._waiting and self._ahead_of <= 0:
            self._ahead_of = min(len(self._waiting), READ_AHEAD_MAX)
            self._ahead = dict(self._several(self._waiting[-READ_AHEAD_MAX:]))
        while self._waiting and left and not (self.fenced or self.doubtful):
            left -= 1
            call_id = self._waiting.pop()
            self._ahead_of -= 1
            if not self._note_unless(lambda one=call_id: self._read(one, now_ns)):  # type: ignore[misc]
                self._waiting.append(call_id)
                break
        while not self._waiting and self._unagreed and left:
            if self.fenced or self.doubtful:
                break
            left -= 1
            call_id = next(iter(self._unagreed))
            if not self._note_unless(lambda one=call_id: self._agree(one)):  # type: ignore[misc]
                self._unagreed[call_id] = None
                break
        return 2 * len(self._waiting) + len(self._unagreed)

    def _several(self, call_ids: Sequence[str]) -> Mapping[str, Sequence[bytes]]:
        """Nobody writes these journals meanwhile but this driver, and nobody did when the last
        owner was fenced, but that of the marked call. What fails here is read alone, and fails
        there."""
        settled = [call_id for call_id in call_ids if call_id != self._doubted]
        try:
            return self.hands.journal.several(settled) if settled else {}
        except BgfError:
            return {}

    def sweep(self) -> int:
        """Close the group's pinholes on ports that no call holds; only after all were restored.

        The ports of a call whose journal cannot be read are held. Returns how many were closed.
        """
        if self.fenced or self._waiting != [] or self._unagreed:
            return 0
        hosts = {address.host for address in self.gateway.group.addresses}
        closed = self.hands.sweep(hosts, lambda key: self.gateway.call_of(key) is not None)
        self._note_unless(self.hands.journal.tidy)
        return closed

    def _note_unless(self, work: Callable[[], object]) -> bool:
        """False when the store could not tell now: it has to be asked again."""
        try:
            work()
        except Fenced as error:
            self._fence(error)
        except NotNow as error:
            self._note(error)
            return False
        except BgfError as error:
            self._note(error)
        return True

    def _carry_out(self, plan: Plan, command: Command | None) -> Outcome:
        try:
            if plan.changes and not plan.forgets:
                record = self.recorder.record(plan)
                self.hands.commit(record)
                self.recorder.done(record)
        except Fenced as error:
            return self._fence(error)
        except InDoubt as error:
            self.doubtful = True
            return self._fail(error)
        except NotNow as error:
            return self._fail(error)  # unanswered, it is asked again: by then it may do
        except StateError as error:
            return self._refuse(command, error)
        self.gateway.commit(plan)
        if plan.forgets:
            self.recorder.forget(plan.call_id)
        if (
            plan.after is None
            or plan.before is None
            or (
                plan.after.created_ns != plan.before.created_ns  # a new call under an old Call-ID
            )
        ):
            self.restored_ns.pop(plan.call_id, None)
        try:
            self._perform(plan.call_id, plan.effects)
        except Fenced as error:
            return self._fence(error)
        except (StateError, DatapathError) as error:
            return self._fail(error)
        return Outcome.ANSWERED

    def _perform(self, call_id: str, effects: Sequence[Effect]) -> None:
        """Perform, together with what has failed before: no reply may promise a missing pinhole."""
        earlier = self._unsettled.pop(call_id, None)
        if earlier:
            effects = _latest([*earlier, *effects])
        try:
            if any(isinstance(effect, _OF_FLOWS) for effect in effects):
                self.hands.record(call_id, self.gateway.expected_flows(call_id))
            self.hands.perform(effects)
        except BgfError:
            self._unsettled[call_id] = [
                one for one in effects if not isinstance(one, Reply | Notify)
            ]
            raise

    def _settle(self) -> None:
        """Carry out what failed before. Raises StateError: then nothing new may be begun.

        (The next owner looks for unsettled work at the marked call only.)
        """
        for call_id in list(self._unsettled) if self._unsettled else ():
            try:
                self._perform(call_id, ())
            except DatapathError as error:
                self._note(error)

    def _refuse(self, command: Command | None, error: BgfError) -> Outcome:
        self._note(error)
        if command is not None:
            self.hands.perform([Reply(command.cookie, Result.ERROR, str(error))])
        return Outcome.REFUSED

    def _fail(self, error: BgfError) -> Outcome:
        self._note(error)
        return Outcome.FAILED

    def _fence(self, error: Fenced) -> Outcome:
        self.fenced = True
        self._note(error)
        return Outcome.FENCED

    def _note(self, error: BgfError) -> None:
        self.tally[error.code] += 1
        self.failures.append(f"{error.code}: {error}")
        del self.failures[:-FAILURES_KEPT_MAX]


def _install(datapath: Pinholes, effects: Sequence[Effect]) -> list[Effect]:
    """Do what concerns flows. Returns the other effects, in their order."""
    puts: list[Flow] = []
    drops: list[FlowKey] = []
    others: list[Effect] = []
    for effect in effects:
        if isinstance(effect, PutFlow):
            puts.append(effect.flow)
        elif isinstance(effect, DropFlow):
            drops.append(effect.key)
        else:
            others.append(effect)
    if puts:
        try:
            datapath.install(puts)
        except DatapathError as error:
            raise PortsUnbindable(str(error)) from error
    if drops:
        datapath.remove(drops)
    return others


def _latest(effects: Sequence[Effect]) -> list[Effect]:
    """One flow effect per pinhole, the last; everything else as it is, after them."""
    flows: dict[FlowKey, Effect] = {}
    others: list[Effect] = []
    for effect in effects:
        if isinstance(effect, PutFlow):
            flows[effect.flow.key] = effect
        elif isinstance(effect, DropFlow):
            flows[effect.key] = effect
        else:
            others.append(effect)
    return [*flows.values(), *others]
