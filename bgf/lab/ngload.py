"""Calls without telephones: sessions opened and closed on a gateway by `ng`, for the generator.

Knows: what a proxy asks in an offer, an answer and a delete, and the SDP it carries. Must not
know RTP or the lab's processes. Each session has a caller's and a callee's transport address,
both load peers that exist only as addresses: the generator sends from them, the meter hears them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bgf.control.bencode import Encodable, TextValue
from bgf.control.client import NgClient
from bgf.control.sdp import Sdp
from bgf.errors import BgfError
from bgf.lab import plan as lab_plan
from bgf.model import Address

T = TypeVar("T")

SESSIONS_MAX = 16_384
BATCH = 250
WINDOW = 32
PORT_FIRST = 10_000
TAG_CALLER, TAG_CALLEE = "load-caller", "load-callee"


class LoadError(BgfError):
    """The gateway would not open or close a load session; carries its reason."""

    code = "load-refused"


@dataclass(frozen=True, slots=True)
class LoadSession:
    """An open session: who talks, and the gateway's addresses that each of them talks to."""

    number: int
    call_id: str
    caller: Address
    callee: Address
    access: Address
    core: Address


def peers(number: int) -> tuple[Address, Address]:
    """Caller and callee of session `number` (0-based): IPv6 callers on even, IPv4 on odd."""
    if not 0 <= number < SESSIONS_MAX:
        raise LoadError(f"load session {number} is out of range 0..{SESSIONS_MAX - 1}")
    port = PORT_FIRST + 2 * number
    caller = lab_plan.ACCESS_LOAD4 if number % 2 else lab_plan.ACCESS_LOAD6
    return Address(caller, port), Address(lab_plan.CORE_LOAD4, port)


def session_sdp(media: Address) -> str:
    """An audio description as a telephone sends it (RFC 8866), media at `media`."""
    kind = f"IN IP{int(media.family)} {media.host}"
    lines = (
        "v=0",
        f"o=load 1 1 {kind}",
        "s=-",
        f"c={kind}",
        "t=0 0",
        f"m=audio {media.port} RTP/AVP 0",
        "a=rtpmap:0 PCMU/8000",
        "a=ptime:20",
        "a=sendrecv",
    )
    return "\r\n".join((*lines, ""))


def offer_request(call_id: str, caller: Address, *, again: bool = False) -> dict[str, Encodable]:
    """`again`: inside the call, as a re-INVITE is."""
    return {
        **({"to-tag": TAG_CALLEE} if again else {}),
        "command": "offer",
        "call-id": call_id,
        "from-tag": TAG_CALLER,
        "received-from": [f"IP{int(caller.family)}", caller.host],
        "direction": ["access", "core"],
        "address-family": "IP4",
        "ICE": "remove",
        "replace": ["origin", "session-connection"],
        "sdp": session_sdp(caller),
    }


def answer_request(call_id: str, callee: Address) -> dict[str, Encodable]:
    return {
        "command": "answer",
        "call-id": call_id,
        "from-tag": TAG_CALLER,
        "to-tag": TAG_CALLEE,
        "received-from": [f"IP{int(callee.family)}", callee.host],
        "ICE": "remove",
        "replace": ["origin", "session-connection"],
        "sdp": session_sdp(callee),
    }


def delete_request(call_id: str) -> dict[str, Encodable]:
    return {"command": "delete", "call-id": call_id, "from-tag": TAG_CALLER, "to-tag": TAG_CALLEE}


def _address(what: str, reply: dict[str, TextValue] | None) -> Address:
    """The gateway's audio address in a reply. Raises LoadError with the gateway's reason."""
    if reply is None:
        raise LoadError(f"{what}: no answer from the gateway")
    sdp = reply.get("sdp")
    if reply.get("result") != "ok" or not isinstance(sdp, str):
        raise LoadError(f"{what}: {reply.get('error-reason') or reply.get('result')}")
    return Sdp(sdp).media[0].rtp


def open_sessions(
    client: NgClient, count: int, prefix: str, progress: Callable[[int], None], first: int = 0
) -> list[LoadSession]:
    """Offer and answer `count` sessions, numbered from `first`; `progress` hears how many are open.

    Raises LoadError on the first refusal.
    """
    opened: list[LoadSession] = []
    for batch in _batches(range(first, first + count)):
        ids = [f"{prefix}-{number}" for number in batch]
        pairs = [peers(number) for number in batch]
        offers = client.call_many(
            [offer_request(i, caller) for i, (caller, _) in zip(ids, pairs, strict=True)], WINDOW
        )
        cores = [_address(f"offer of {i}", reply) for i, reply in zip(ids, offers, strict=True)]
        answers = client.call_many(
            [answer_request(i, callee) for i, (_, callee) in zip(ids, pairs, strict=True)], WINDOW
        )
        for at, number in enumerate(batch):
            opened.append(
                LoadSession(
                    number,
                    ids[at],
                    *pairs[at],
                    access=_address(f"answer of {ids[at]}", answers[at]),
                    core=cores[at],
                )
            )
        progress(len(opened))
    return opened


def close_sessions(client: NgClient, sessions: Sequence[LoadSession]) -> list[str]:
    """Delete every session; returns one line for each that was not known or not answered."""
    problems: list[str] = []
    for batch in _batches(sessions):
        replies = client.call_many([delete_request(s.call_id) for s in batch], WINDOW)
        for session, reply in zip(batch, replies, strict=True):
            if reply is None:
                problems.append(f"delete of {session.call_id}: no answer from the gateway")
            elif reply.get("result") != "ok" or reply.get("warning"):
                why = reply.get("error-reason") or reply.get("warning") or reply.get("result")
                problems.append(f"delete of {session.call_id}: {why}")
    return problems


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The first item alone: a gateway that does not answer is noticed by it, not by hundreds."""
    yield items[:1]
    for at in range(1, len(items), BATCH):
        yield items[at : at + BATCH]
