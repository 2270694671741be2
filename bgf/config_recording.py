"""The `[recording]` section: where recordings are written, where forwarded media is sent.

Knows: keys, their limits and defaults. Must not know what recording is. Without a directory
nothing is recorded, without a recorder nothing forwarded, and commands that ask for it say so.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bgf.errors import Malformed
from bgf.model import PORT_MAX, Address
from bgf.toml_table import Table, plain_path, quote

CALLS_MAX: Final = 256
CALLS_RANGE: Final = (1, 4_096)
FILE_BYTES_MAX: Final = 64 << 20
FILE_BYTES_RANGE: Final = (64 << 10, 1 << 40)
FILES_MAX: Final = 1_000
FILES_RANGE: Final = (1, 1_000_000)


@dataclass(frozen=True, slots=True)
class RecordingSection:
    """`calls_max`: calls whose media is copied at a time. A recording ends at `file_bytes_max`, and
    none begins while the directory has `files_max` of them: nothing is ever deleted here.

    RTP goes to `recorder`, RTCP to the port after it, by way of `recorder_realm` or, without one,
    of the routing table.
    """

    directory: Path | None = None
    file_bytes_max: int = FILE_BYTES_MAX
    files_max: int = FILES_MAX
    recorder: Address | None = None
    recorder_realm: str = ""
    calls_max: int = CALLS_MAX


NO_RECORDING: Final = RecordingSection()


def parse_recording(table: Table, realms: Container[str]) -> RecordingSection:
    """Raises ConfigError."""
    table.only(
        "directory", "file_bytes_max", "files_max", "recorder", "recorder_realm", "calls_max"
    )
    directory = table.text("directory", lambda v: not v or plain_path(v), "an absolute path", "")
    recorder = table.text("recorder", lambda v: not v or _address(v), ADDRESS_RULE, "")
    realm = table.text(
        "recorder_realm", lambda v: not v or v in realms, "the name of a realm, or absent", ""
    )
    if realm and not recorder:
        table.fail("recorder_realm", realm, "means nothing without recorder")
    return RecordingSection(
        Path(directory) if directory else None,
        table.integer("file_bytes_max", FILE_BYTES_RANGE, FILE_BYTES_MAX),
        table.integer("files_max", FILES_RANGE, FILES_MAX),
        _address(recorder) if recorder else None,
        realm,
        table.integer("calls_max", CALLS_RANGE, CALLS_MAX),
    )


ADDRESS_RULE: Final = (
    f"HOST:PORT ([HOST]:PORT for IPv6), an address and a port from 1 to {PORT_MAX - 1}"
)


def _address(text: str) -> Address | None:
    try:
        address = Address.parse(text)
    except Malformed:
        return None
    return address if 0 < address.port < PORT_MAX else None


def dump_recording(recording: RecordingSection) -> list[str]:
    """The lines of the section, as `parse_recording` reads them."""
    lines = [
        "[recording]",
        f"file_bytes_max = {recording.file_bytes_max}",
        f"files_max = {recording.files_max}",
        f"calls_max = {recording.calls_max}",
    ]
    if recording.directory is not None:
        lines.append(f"directory = {quote(str(recording.directory))}")
    if recording.recorder is not None:
        lines.append(f"recorder = {quote(str(recording.recorder))}")
    if recording.recorder_realm:
        lines.append(f"recorder_realm = {quote(recording.recorder_realm)}")
    return lines
