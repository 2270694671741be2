"""What an operator wants of the media of each realm: latching, checks, rates, marks. No I/O.

Knows: `model`'s words. Must not know sessions, sockets, or where the values were written down.
A group's policies are the same on every node that may own it, like its addresses and ports.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from bgf.model import Latch, Policer

ANY: Final = "any"
"""The rule of all media kinds that have none of their own."""


class RtpCheck(enum.StrEnum):
    """What is dropped of an RTP stream: nothing, what is no RTP (RFC 3550 section A.1), or also
    what has a payload type that neither description names (RFC 3551 section 3)."""

    OFF = "off"
    HEADER = "header"
    PAYLOAD_TYPES = "payload-types"


class StreamRule(msgspec.Struct, frozen=True):
    """Of one media kind: `policer` bounds what arrives from the realm (H.248.53), `dscp` (0..63,
    RFC 2474) marks what leaves into it; None keeps the sender's."""

    policer: Policer | None = None
    dscp: int | None = None


class RealmPolicy(msgspec.Struct, frozen=True):
    """Of what arrives from one realm, and the marks of what leaves into it.

    `latch` is OFF, LATCH or STRICT; a command's flags go before it. `inactivity_ms` without a
    packet that was to be expected is reported; 0 never. `rules` is by media kind, or ANY.
    """

    latch: Latch = Latch.OFF
    rtp_check: RtpCheck = RtpCheck.OFF
    inactivity_ms: int = 0
    rules: Mapping[str, StreamRule] = {}

    def rule(self, kind: str) -> StreamRule:
        if not self.rules:
            return _NO_RULE
        return self.rules.get(kind) or self.rules.get(ANY) or _NO_RULE


Policies = Mapping[str, RealmPolicy]
"""By realm. A realm without an entry has the defaults."""

_NO_RULE: Final = StreamRule()
DEFAULT_POLICY: Final = RealmPolicy()
