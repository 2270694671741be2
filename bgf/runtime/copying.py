"""Media that is copied as a call's orders say: into a file, to a recorder, on whoever owns it.

Knows: the machines that are active here, the shared capture. Must not know why a call is copied.
What leaves is copied, not what arrives: it has passed every check, and is what the other side gets.
The orders are state, so a new owner goes on with a new file.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from bgf.config import RecordingSection
from bgf.control.ng import Request
from bgf.errors import DatapathError, Unsupported
from bgf.events import Verb
from bgf.gateway import Gateway
from bgf.model import Component, Flow, FlowKey
from bgf.runtime.forwarding import Forwarding
from bgf.runtime.process import now_ns
from bgf.runtime.recordings import Recording, Recordings
from bgf.runtime.served import Served
from bgf.runtime.shared_capture import SharedCapture, View
from bgf.session import Session
from bgf.session_values import Recording as Order
from bgf.session_values import Treatment

log = logging.getLogger("bgf.copying")

SNAP_BYTES: Final = 2_048
"""More than any frame has that the packet path forwards without jumbo frames."""
RETRY_MS: Final = 1_000
RECORDS: Final = ("record-call=on", "record-call=yes")


class _Copied(NamedTuple):
    """What becomes of one pinhole's frames."""

    flow: Flow
    recording: Recording | None
    forwarded: bool


class Copying:
    """One node's. `follow` it every few milliseconds."""

    def __init__(
        self,
        shared: SharedCapture,
        served: Mapping[str, Served],
        settings: RecordingSection,
        interface: str = "",
    ) -> None:
        """`interface` is that of the recorder's realm. Raises EnvironmentProblem."""
        self._shared = shared
        self._served = served
        self._settings = settings
        self._recordings: Recordings | None = None
        if settings.directory is not None:
            self._recordings = Recordings(
                settings.directory, SNAP_BYTES, settings.file_bytes_max, settings.files_max
            )
        self._forwarding: Forwarding | None = None
        if settings.recorder is not None:
            self._forwarding = Forwarding(settings.recorder, interface)
        self._view: View | None = None
        self._seen: dict[str, tuple[Gateway, int]] = {}
        self._files: dict[tuple[str, str], Recording] = {}
        self._pinholes: dict[FlowKey, _Copied] = {}
        self._known: dict[tuple[str, str], tuple[Session, dict[FlowKey, _Copied]]] = {}
        self._again_ns = 0
        self.tally: Counter[str] = Counter()

    # -- at the door -----------------------------------------------------------------------

    def admit(self, gateway: Gateway, request: Request) -> Request:
        """The request, with a warning where what it wishes beside its offer cannot be had here.

        Raises Unsupported for a command that this node is not set up for.
        """
        wishes = any(flag in RECORDS for flag in request.flags)
        if request.verb in (Verb.START_RECORDING, Verb.START_FORWARDING):
            why = self._objection(gateway, request)
            if why:
                raise Unsupported(why)
        elif wishes and request.verb in (Verb.OFFER, Verb.ANSWER):
            why = self._objection(gateway, request)
            if why:
                flags = tuple(flag for flag in request.flags if flag not in RECORDS)
                warnings = (*request.warnings, f"record-call: {why}")
                return msgspec.structs.replace(request, flags=flags, warnings=warnings)
        return request

    def _objection(self, gateway: Gateway, request: Request) -> str:
        forwards = request.verb is Verb.START_FORWARDING
        if forwards and self._forwarding is None:
            return "no recorder is configured here ([recording] recorder): nothing can be forwarded"
        if not forwards and self._recordings is None:
            return "no directory is configured here ([recording] directory): nothing is recorded"
        copied = gateway.copied
        if len(copied) >= self._settings.calls_max and request.call_id not in copied:
            return f"{len(copied)} calls are being copied, as many as calls_max allows"
        return ""

    # -- copying ---------------------------------------------------------------------------

    def follow(self) -> None:
        """Agree with the machines, take the frames that there are. Never raises."""
        now = now_ns()
        if self._changed() and now >= self._again_ns:
            try:
                self._agree()
            except DatapathError as error:
                self._again_ns = now + RETRY_MS * 1_000_000
                self._seen.clear()
                self.tally["refused"] += 1
                log.error("copies of media: %s", error)
        if self._view is None:
            return
        try:
            self._take(self._view)
        except DatapathError as error:
            self.tally["refused"] += 1
            log.error("copies of media: %s", error)
        if self._forwarding is not None:
            self._forwarding.flush()

    def recording_of(self, group: str, call_id: str) -> str:
        """The file that a call is recorded into now, '' for none."""
        recording = self._files.get((group, call_id))
        return "" if recording is None else str(recording.path)

    def status(self) -> dict[str, int]:
        """Counts, for the operator."""
        parts = Counter(self.tally)
        parts["calls"] = len({one.flow.session for one in self._pinholes.values()})
        if self._view is not None:
            parts["lost"] = self._view.lost
        for name, tally in (
            ("recording", self._recordings.tally if self._recordings else {}),
            ("forwarding", self._forwarding.tally if self._forwarding else {}),
        ):
            parts.update({f"{name}-{what}": count for what, count in tally.items()})
        return dict(parts)

    def close(self) -> None:
        """Write down and send what there is, then let go."""
        if self._view is not None:
            self._view.close()
        if self._recordings is not None:
            self._recordings.close()
        if self._forwarding is not None:
            self._forwarding.close()

    def _changed(self) -> bool:
        now = {
            group: (one.driver.gateway, one.driver.gateway.copied_version)
            for group, one in self._served.items()
            if one.driver is not None
        }
        return now != self._seen

    def _agree(self) -> None:
        if self._view is not None:
            self._take(self._view)  # what was caught until now belongs where it was caught for
        pinholes: dict[FlowKey, _Copied] = {}
        wanted: set[tuple[str, str]] = set()
        known, self._known = self._known, {}
        self._seen = {}
        for group, served in self._served.items():
            if served.driver is None:
                continue
            machine = served.driver.gateway
            self._seen[group] = machine, machine.copied_version
            for number, (call_id, session) in enumerate(machine.copied.items()):
                if number >= self._settings.calls_max:
                    self.tally["over-calls-max"] += 1
                    break
                recording = self._file_of(group, session)
                if recording is not None:
                    wanted.add((group, call_id))
                before = known.get((group, call_id))
                if before is None or before[0] is not session:
                    before = session, self._copied_of(machine, session, recording)
                self._known[group, call_id] = before
                pinholes |= before[1]
            # A pause keeps the file; anything else that is not recorded closes it.
            wanted |= {
                key
                for key in self._files
                if key[0] == group and _is_paused(machine.session(key[1]))
            }
        for key in [key for key in self._files if key not in wanted]:
            self._end(key)
        self._pinholes = pinholes
        if self._view is not None:
            self._view.want(pinholes)
        elif pinholes:
            self._view = self._shared.capture(pinholes, SNAP_BYTES)
        if self._view is not None and not pinholes:
            self._view.close()
            self._view = None

    def _copied_of(
        self, machine: Gateway, session: Session, recording: Recording | None
    ) -> dict[FlowKey, _Copied]:
        found = {}
        for flow in machine.expected_flows(session.call_id):
            forwarded = self._forwarding is not None and _forwarded(session, flow)
            if recording is not None or forwarded:
                found[flow.key] = _Copied(flow, recording, forwarded)
        return found

    def _file_of(self, group: str, session: Session) -> Recording | None:
        if self._recordings is None or session.orders.recording is not Order.ON:
            return None
        key = group, session.call_id
        if key not in self._files:
            self._files[key] = self._recordings.begin(group, session.call_id)
            log.info(
                "group %s: call %s is recorded: %s", *key, self._files[key].path.name,
                extra={"group": key[0], "call": key[1], "reason": "recorded"},
            )  # fmt: skip
        return self._files[key]

    def _end(self, key: tuple[str, str]) -> None:
        recording = self._files.pop(key)
        if self._recordings is not None:
            self._recordings.end(recording)
        log.info(
            "group %s: call %s: recording ended, %d frames", *key, recording.frames,
            extra={"group": key[0], "call": key[1], "reason": "recording-ended"},
        )  # fmt: skip

    def _take(self, view: View) -> None:
        wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - now_ns()
        for one in view:
            copied = self._pinholes.get(one.key)
            if copied is None or not one.leaving:
                continue
            if copied.recording is not None and self._recordings is not None:
                self._recordings.write(
                    copied.recording, one.time_ns + wall_ns, one.frame, one.length
                )
            if copied.forwarded and self._forwarding is not None:
                control = copied.flow.component is Component.RTCP
                self._forwarding.forward(one.frame, control=control)


def _forwarded(session: Session, flow: Flow) -> bool:
    """Is what the flow carries to be forwarded? It is of the side that it arrives from."""
    first = session.streams[flow.stream].ports[0]
    side = int(flow.local_in.port not in (first, first + 1))
    return Treatment.FORWARDED in session.orders.treatments[side]


def _is_paused(session: Session | None) -> bool:
    return session is not None and session.orders.recording is Order.PAUSED
