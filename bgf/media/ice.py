"""What an ICE-lite agent says to a check, and whether the peer has chosen (RFC 8445 section 7.3).

Knows: STUN messages, the credentials of a flow. Must not know sockets, calls, time. Wrong messages
are not answered: whoever does not know our password learns nothing, not even that we are here.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from bgf.media import stun
from bgf.model import Address, Ice


class Check(enum.StrEnum):
    """What became of a message, for counting."""

    ANSWERED = "answered"
    NOT_STUN = "not-stun"  # not whole, or with a wrong fingerprint
    NOT_A_REQUEST = "not-a-request"  # indications keep bindings alive, answers are not for us
    BAD_USERNAME = "bad-username"
    BAD_INTEGRITY = "bad-integrity"
    ROLE_CONFLICT = "role-conflict"
    UNKNOWN_ATTRIBUTE = "unknown-attribute"


class Answer(NamedTuple):
    """`reply` goes back to the sender, when there is any; `nominated`: it has chosen this pair."""

    check: Check
    reply: bytes | None = None
    nominated: bool = False


def answer(ice: Ice, message: bytes, sender: Address) -> Answer:
    """What to say to a message that arrived at a pinhole with these credentials."""
    request = stun.read(message)
    if request is None:
        return Answer(Check.NOT_STUN)
    if request.kind != stun.BINDING_REQUEST:
        return Answer(Check.NOT_A_REQUEST)
    if not _is_for(ice, request.attributes.get(stun.USERNAME, b"")):
        return Answer(Check.BAD_USERNAME)
    if not request.is_signed_by(ice.pwd):
        return Answer(Check.BAD_INTEGRITY)
    if request.unknown:
        reply = stun.error(request, 420, "Unknown Attribute", ice.pwd)
        return Answer(Check.UNKNOWN_ATTRIBUTE, reply)
    if stun.ICE_CONTROLLED in request.attributes:
        # A lite agent is always the controlled one: the peer has to change its mind.
        return Answer(Check.ROLE_CONFLICT, stun.error(request, 487, "Role Conflict", ice.pwd))
    reply = stun.success(request, sender, ice.pwd)
    return Answer(Check.ANSWERED, reply, stun.USE_CANDIDATE in request.attributes)


def _is_for(ice: Ice, username: bytes) -> bool:
    """`ours:theirs` (RFC 8445 section 7.2.2); theirs is compared where it is known."""
    ours, colon, theirs = username.partition(b":")
    if not colon or ours != ice.ufrag.encode():
        return False
    return not ice.remote_ufrag or theirs == ice.remote_ufrag.encode()
