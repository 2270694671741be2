"""ICE lines of a description: credentials judged, an ICE-lite agent's lines written (RFC 8839).

Knows: the grammar of ice-ufrag, ice-pwd and candidate lines, and their limits. Must not know where
credentials come from, who answers checks, what else a description says.
"""

from __future__ import annotations

import string
from typing import Final

from bgf.events import MediaRewrite
from bgf.model import Address

UFRAG: Final = "a=ice-ufrag:"
PWD: Final = "a=ice-pwd:"
UFRAG_CHARS: Final = range(4, 257)
PWD_CHARS: Final = range(22, 257)
LITE_LINES: Final = ("a=ice-lite", "a=ice-options:ice2")
"""Of the session (RFC 8839 sections 5.3 and 5.6; RFC 8445 section 10)."""

_ICE_CHARS: Final = frozenset(string.ascii_letters + string.digits + "+/")
_HOST_PREFERENCE: Final = 126  # RFC 8445 section 5.1.2.1
_LOCAL_PREFERENCE: Final = 65_535  # the only address: section 5.1.2.1


def good(ufrag: str, pwd: str) -> bool:
    """Are these usable credentials?"""
    return _is_ice(ufrag, UFRAG_CHARS) and _is_ice(pwd, PWD_CHARS)


def _is_ice(text: str, chars: range) -> bool:
    return len(text) in chars and set(text) <= _ICE_CHARS


def lines(wanted: MediaRewrite) -> list[str]:
    """What an m-line of ours says of ICE; nothing when it does none."""
    if wanted.ice is None or not wanted.rtp.port:
        return []
    out = [f"{UFRAG}{wanted.ice.ufrag}", f"{PWD}{wanted.ice.pwd}", _candidate(1, wanted.rtp)]
    if wanted.rtcp is not None and wanted.rtcp != wanted.rtp:
        out.append(_candidate(2, wanted.rtcp))
    return out


def _candidate(component: int, ours: Address) -> str:
    """Our only one: a host candidate (RFC 8839 section 5.1)."""
    priority = _HOST_PREFERENCE << 24 | _LOCAL_PREFERENCE << 8 | 256 - component
    return f"a=candidate:1 {component} UDP {priority} {ours.host} {ours.port} typ host"
