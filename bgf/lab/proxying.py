"""A proxy at work while things break: opens, changes, asks for and ends calls, one after the other,
and keeps a ledger of what it was promised. As patient as Kamailio: same cookie, five tries.

Knows: `ng` requests and replies, the ledger. Must not know what breaks, nor gateways beyond their
control addresses. One thread per group; none of its calls has media, but for those that it closes.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bgf.control.client import NgClient, NoAnswer
from bgf.control.sdp import Sdp
from bgf.errors import BgfError
from bgf.lab import namespaces
from bgf.lab import plan as lab_plan
from bgf.lab.invariants import Closed
from bgf.lab.ledger import GONE, OFFERED, Answer, Ledger
from bgf.lab.ngload import (
    TAG_CALLER,
    LoadSession,
    answer_request,
    delete_request,
    offer_request,
)
from bgf.lab.plan import CONTROL_PORT, GroupPlan, Plan
from bgf.model import Address

PAUSE_MS: Final = 60
FIRST_CALLS: Final = 6
CALLS_MAX: Final = 400
SAID_MAX: Final = 20_000
PORT_FIRST, PORT_LAST = 44_000, 59_998
QUERIES_TRIES: Final = 3
SHED: Final = ("load limit", "Parallel session limit reached", "the state plane has not served")
WORK: Final = ("open", "move", "move", "query", "delete", "close")


class Proxy:
    """Works on one group, from `start` to `stop`. `sessions` are its calls with media; it ends the
    first `closing` of them while it works."""

    def __init__(self, plan: Plan, group: GroupPlan, seed: str) -> None:
        self._group = group
        self.ledger = Ledger()
        self._chance = random.Random(f"{seed} {group.id}")
        self._name = f"{seed}-{group.id}"
        self.sessions: Sequence[LoadSession] = ()
        self.closing = 0
        self._ports = iter(range(PORT_FIRST, PORT_LAST, 2))
        self._opened = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.closed: dict[str, tuple[LoadSession, int]] = {}
        """Calls with media that were ended, and when the answer was read (CLOCK_BOOTTIME, ns)."""
        self._in_doubt: set[str] = set()
        self.slowest_ms = 0.0
        self._said: deque[str] = deque(maxlen=SAID_MAX)
        address = Address(group.control_host, CONTROL_PORT)
        self.client = namespaces.run_in(plan.cscf, lambda: NgClient(address, prefix="proxy"))

    def prepare(self) -> None:
        """Some calls, in peace. Raises BgfError when one is not answered."""
        for _ in range(FIRST_CALLS):
            self._open()
        if self.ledger.counts[Answer.NONE] or self.ledger.counts[Answer.REFUSED]:
            raise NoAnswer(f"{self._group.id} does not open calls before anything is broken")

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self._group.id}")
        self._thread.start()

    def stop(self) -> None:
        """Returns when the request under way has been answered, or given up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        self.client.close()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_MS / 1000):
            began = time.monotonic()
            self._work(self._chance.choice(WORK))
            self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)

    def _work(self, what: str) -> None:
        living = self.ledger.living(self._group.id)
        if what == "close" and self.closing:
            self.closing -= 1
            self._close_one(self.sessions[self.closing])
        elif what == "open" or len(living) < FIRST_CALLS // 2:
            if self._opened < CALLS_MAX:
                self._open()
        elif what == "move":
            self._describe(self._chance.choice(living), next(self._ports), again=True)
        elif what == "delete":
            self._delete(self._chance.choice(living))
        elif what == "query":
            self._query(self._chance.choice(living))

    # -- requests ---------------------------------------------------------------------------

    def _open(self) -> None:
        self._opened += 1
        self._describe(f"{self._name}-{self._opened}", next(self._ports), again=False)

    def _describe(self, call_id: str, port: int, *, again: bool) -> None:
        """Offer and answer, of a new call or, `again`, in one: the caller is at `port` now."""
        # Alternately over both families, as a call's name has it: it keeps its family.
        over4 = int(call_id.rpartition("-")[2]) % 2
        # Not where the generators are: a released call's media must find no new call of its host.
        caller = Address(lab_plan.ACCESS_HOST4 if over4 else lab_plan.ACCESS_HOST6, port)
        callee = Address(lab_plan.CORE_HOST4, port)
        half = () if again else (OFFERED,)
        before = self.ledger.ask(call_id, self._group.id, port, *half)
        offered = self._call(offer_request(call_id, caller, again=again))
        told = self._answered(f"offer of {call_id}", offered)
        local = _media(offered) if told is Answer.OK else ""
        self.ledger.answer(call_id, before, port, told, local)
        if told is Answer.OK:
            reply = self._call(answer_request(call_id, callee))
            answered = self._answered(f"answer of {call_id}", reply)
            if answered is not Answer.OK:
                self.ledger.half_open(call_id, before)

    def _delete(self, call_id: str) -> None:
        before = self.ledger.ask(call_id, self._group.id, GONE)
        reply = self._call(delete_request(call_id))
        self.ledger.answer(
            call_id, before, GONE, self._answered(f"delete of {call_id}", reply, whole=True)
        )

    def _close_one(self, session: LoadSession) -> None:
        self.ledger.counts["asked"] += 1
        reply = self._call(delete_request(session.call_id))
        told = self._answered(f"delete of {session.call_id}", reply, whole=True)
        self.ledger.counts[told.value] += 1
        if told is Answer.NONE:
            self._in_doubt.add(session.call_id)
        if told is Answer.OK:
            self.closed[session.call_id] = (session, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def _query(self, call_id: str) -> None:
        """Right now it must be what was promised."""
        self.ledger.counts["asked"] += 1
        state = self.look(call_id, tries=1)
        told = Answer.NONE if state is None else Answer.OK
        self.ledger.counts[told.value] += 1
        possible = self.ledger.calls[call_id].possible
        if state is not None and state not in possible:
            self.ledger.broken.append(
                f"call {call_id}: asked for in the middle, its caller was at port {state}, "
                f"{' or '.join(map(str, sorted(possible)))} was promised"
            )

    def look(self, call_id: str, tries: int = QUERIES_TRIES) -> int | None:
        """The state of a call as the gateway has it; None when it does not say."""
        for _ in range(tries):
            reply = self._call({"command": "query", "call-id": call_id})
            if reply is not None:
                return _state(reply)
        return None

    def end(self, call_id: str) -> str:
        """Release a call that is there; a line when that does not go as it should. It may be gone
        already when an earlier release was not answered."""
        reply = self._call(delete_request(call_id))
        if reply is None:
            return f"call {call_id} cannot be released: no answer"
        gone = call_id in self._in_doubt
        if reply.get("result") != "ok" or (reply.get("warning") and not gone):
            why = reply.get("error-reason") or reply.get("warning")
            return f"call {call_id} cannot be released: {why}"
        return ""

    def modify(self, session: LoadSession) -> str:
        """A re-INVITE in a call with media that changes nothing: the same addresses come back."""
        if reply := self._call(offer_request(session.call_id, session.caller, again=True)):
            core = _media(reply)
            if core != str(session.core):
                why = reply.get("error-reason") or f"{core} was answered, {session.core} before"
                return f"call {session.call_id} cannot be modified: {why}"
            reply = self._call(answer_request(session.call_id, session.callee))
            if reply and _media(reply) == str(session.access):
                return ""
        return f"call {session.call_id} cannot be modified: {reply or 'no answer'}"

    def story(self, call_id: str) -> list[str]:
        """What was asked of a call, when (ms of CLOCK_BOOTTIME), and what was answered."""
        return [line for line in self._said if f" {call_id}: " in line]

    def _call(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        began_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        reply = None
        with contextlib.suppress(NoAnswer, OSError):
            reply = self.client.call(request)
        now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        short = {
            k: v for k, v in (reply or {}).items() if k in ("result", "warning", "error-reason")
        }
        what = f"{request['command']} {request['call-id']}"
        self._said.append(f"{began_ms} to {now_ms} {what}: {short or 'nothing'}")
        return reply

    def _answered(
        self, what: str, reply: Mapping[str, Any] | None, *, whole: bool = False
    ) -> Answer:
        """Classify; an error that there is no reason for is a broken promise. `whole`: a warning is
        one, too."""
        if reply is None:
            return Answer.NONE
        if reply.get("result") == "ok" and not (whole and reply.get("warning")):
            return Answer.OK
        why = str(reply.get("error-reason") or reply.get("warning") or reply)
        if any(word in why for word in SHED):
            return Answer.REFUSED
        self.ledger.broken.append(f"{what}: {why[:160]}")
        return Answer.REFUSED


def closed_calls(
    closed: Mapping[str, tuple[LoadSession, int]], heard: Mapping[str, int]
) -> list[Closed]:
    """`heard`: receiver's address -> when it last heard media."""
    return [
        Closed(
            call_id,
            answered_ns,
            max(heard.get(str(session.caller), 0), heard.get(str(session.callee), 0)),
        )
        for call_id, (session, answered_ns) in closed.items()
    ]


def _media(reply: Mapping[str, Any] | None) -> str:
    sdp = (reply or {}).get("sdp")
    try:
        return str(Sdp(sdp).media[0].rtp) if isinstance(sdp, str) else ""
    except (BgfError, IndexError):
        return ""


def _state(reply: Mapping[str, Any]) -> int | None:
    """Where the caller is, by a query's reply; None when it does not say. Of a call that nobody
    has answered the gateway tells no address."""
    if reply.get("result") != "ok":
        why = str(reply.get("error-reason"))
        return None if any(word in why for word in SHED) else GONE
    try:
        told = reply["tags"][TAG_CALLER]["medias"][0]["streams"][0]["advertised endpoint"]
        return int(told["port"]) if told else OFFERED
    except (KeyError, IndexError, TypeError, ValueError):
        return None
