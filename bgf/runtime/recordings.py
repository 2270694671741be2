"""Recordings: one pcap file per call and owner, written by a thread of its own.

Knows: files, their names and limits. Must not know calls beyond their Call-ID. The disk may be
slow or full: the event loop only ever puts into a bounded queue, and what finds no room is counted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import BinaryIO, Final

from bgf import pcap

log = logging.getLogger("bgf.recordings")

QUEUE_MAX: Final = 8_192
"""Frames that wait to be written."""
WRITE_WAIT_S: Final = 0.1
END_WAIT_S: Final = 5.0
NAME_CHARS_MAX: Final = 64
SUFFIX: Final = ".pcap"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9@_-]+")


def file_name(group: str, call_id: str, began_s: float) -> str:
    """A name without anything that a file system or a shell would mind, unlike a Call-ID."""
    plain = _UNSAFE.sub("_", call_id)[:NAME_CHARS_MAX]
    digest = hashlib.blake2b(call_id.encode("utf-8", "replace"), digest_size=4).hexdigest()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(began_s))
    parts = (
        _UNSAFE.sub("_", group),
        f"{stamp}.{int(began_s * 1e6) % 1_000_000:06d}",
        plain,
        digest,
    )
    return "-".join(parts) + SUFFIX


class Recording:
    """One call's file. `bytes` are those of the queue too; `full` once the limit is reached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self.frames = 0
        self.full = False
        self.file: BinaryIO | None = None  # the writer's alone


class Recordings:
    """`tally` counts what became of frames and files: `frames`, `files`, and by what was lost:
    `queue-full`, `file-full`, `too-many-files`, `disk`."""

    def __init__(
        self, directory: Path, snap_bytes: int, file_bytes_max: int, files_max: int
    ) -> None:
        self._directory = directory
        self._snap_bytes = snap_bytes
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._jobs: deque[tuple[Recording, bytes | None]] = deque()
        self._ready = threading.Condition()
        self._over = False
        self._thread: threading.Thread | None = None
        self.tally: Counter[str] = Counter()

    def begin(self, group: str, call_id: str) -> Recording:
        """A recording that its first frame will make a file of."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="recordings", daemon=True)
            self._thread.start()
        name = file_name(group, call_id, time.clock_gettime(time.CLOCK_REALTIME))
        recording = Recording(self._directory / name)
        self._put(recording, pcap.header(self._snap_bytes))
        return recording

    def write(self, recording: Recording, time_ns: int, frame: bytes, length: int) -> None:
        """Never waits. `time_ns` is of the wall clock."""
        record = pcap.record(time_ns, frame[: self._snap_bytes], length)
        if recording.bytes + len(record) > self._file_bytes_max:
            recording.full = True
            self.tally["file-full"] += 1
        elif len(self._jobs) >= QUEUE_MAX:
            self.tally["queue-full"] += 1
        else:
            recording.frames += 1
            self._put(recording, record)

    def end(self, recording: Recording) -> None:
        """Close the file when all that waits is in it."""
        self._put(recording, None)

    def close(self) -> None:
        """Write what waits, close every file. Waits END_WAIT_S at most."""
        with self._ready:
            self._over = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(END_WAIT_S)
            self._thread = None

    def _put(self, recording: Recording, data: bytes | None) -> None:
        recording.bytes += len(data or b"")
        with self._ready:
            self._jobs.append((recording, data))
            self._ready.notify()

    # -- the writer ------------------------------------------------------------------------

    def _write_all(self) -> None:
        opened: dict[int, Recording] = {}
        while True:
            with self._ready:
                while not self._jobs and not self._over:
                    self._ready.wait(WRITE_WAIT_S)
                    if not self._jobs:
                        break
                jobs, over = list(self._jobs), self._over
                self._jobs.clear()
            for recording, data in jobs:
                self._one(recording, data, opened)
            if not jobs:
                for recording in opened.values():
                    self._flush(recording)
                if over:
                    break
        for recording in list(opened.values()):
            self._one(recording, None, opened)

    def _one(self, recording: Recording, data: bytes | None, opened: dict[int, Recording]) -> None:
        try:
            if data is None:
                opened.pop(id(recording), None)
                file, recording.file = recording.file, None
                if file is not None:
                    file.close()
                return
            if recording.file is None:
                if recording.bytes < 0:
                    return  # given up
                recording.file = self._open(recording)
                opened[id(recording)] = recording
            recording.file.write(data)
            self.tally["frames"] += 1
        except OSError as problem:
            self._give_up(recording, opened, problem)

    def _open(self, recording: Recording) -> BinaryIO:
        """Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.scandir(self._directory) as entries:
            known = sum(entry.name.endswith(SUFFIX) for entry in entries)
        if known >= self._files_max:
            self.tally["too-many-files"] += 1
            raise OSError(0, f"{self._directory} has {known} recordings: move some, or allow more")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(recording.path, flags, 0o600), "wb")
        self.tally["files"] += 1
        return file

    def _flush(self, recording: Recording) -> None:
        try:
            if recording.file is not None:
                recording.file.flush()
        except OSError:
            self.tally["disk"] += 1

    def _give_up(
        self, recording: Recording, opened: dict[int, Recording], problem: OSError
    ) -> None:
        """The rest of this call is not recorded; the gateway goes on."""
        self.tally["disk"] += 1
        log.error("recording %s: %s", recording.path.name, problem.strerror)
        opened.pop(id(recording), None)
        file, recording.file = recording.file, None
        recording.bytes = -(1 << 62)
        try:
            if file is not None:
                file.close()
        except OSError:
            pass
