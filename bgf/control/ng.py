"""The `ng` codec as others see it: `decode`, `render`, `refuse`. No sockets.

Frames are in `frames`, what a peer asks in `requests` and `wishes`, what it is told in `replies`.
"""

from __future__ import annotations

from bgf.control.bencode import BadBencode
from bgf.control.frames import (
    COOKIE_BYTES_MAX,
    DATAGRAM_BYTES_MAX,
    BadJson,
    BadValue,
    Codec,
    MissingKey,
    NoCookie,
    TooMuch,
    split,
)
from bgf.control.replies import Measured, refuse, render
from bgf.control.requests import OutOfScope, Request, UnknownCommand, decode
from bgf.control.sdp import BadSdp

__all__ = [
    "COOKIE_BYTES_MAX",
    "DATAGRAM_BYTES_MAX",
    "BadBencode",
    "BadJson",
    "BadSdp",
    "BadValue",
    "Codec",
    "Measured",
    "MissingKey",
    "NoCookie",
    "OutOfScope",
    "Request",
    "TooMuch",
    "UnknownCommand",
    "decode",
    "refuse",
    "render",
    "split",
]
