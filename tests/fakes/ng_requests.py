"""Plain `ng` requests of one call, and a gateway in memory to send them to."""

from __future__ import annotations

from typing import Any

from bgf.control.client import encode_request
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Control, Node
from tests.fakes.journal import Shared


def sdp(host: str = "10.10.0.2", *ports: int, more: str = "") -> str:
    kind = "IP6" if ":" in host else "IP4"
    lines = "".join(f"m=audio {port} RTP/AVP 8\r\n" for port in ports or (6000,))
    return f"v=0\r\no=u 1 1 IN {kind} {host}\r\ns=-\r\nc=IN {kind} {host}\r\nt=0 0\r\n{lines}{more}"


OFFER: dict[str, Any] = {"command": "offer", "call_id": "c", "from_tag": "a", "sdp": sdp()}
ANSWER = OFFER | {"command": "answer", "to_tag": "b", "sdp": sdp("10.20.0.2", 7000)}
DELETE: dict[str, Any] = {"command": "delete", "call_id": "c", "from_tag": "a"}


def control(**more: Any) -> Control:
    return Control(Node(more.pop("shared", None) or Shared(), Pinholes(), **more))


def established() -> Control:
    made = control()
    assert made.ask(**OFFER)["result"] == made.ask(**ANSWER)["result"] == "ok"
    return made


def frame(cookie: str = "k", **fields: Any) -> bytes:
    return encode_request(cookie, {key.replace("_", "-"): v for key, v in fields.items()})


def ports(reply: dict[str, Any]) -> list[str]:
    return [row.split(" ")[1] for row in reply["sdp"].split("\r\n") if row.startswith("m=")]
