"""`bgfctl ng` against a server, over every transport."""

from __future__ import annotations

import json

import pytest

from bgf.control.frames import Codec
from bgf.control.links import Transport
from tests.fakes.ng_serving import LISTENER, serving
from tests.integration.test_ctl_cli import bgfctl


@pytest.mark.parametrize("transport", list(Transport), ids=lambda transport: transport.value)
def test_one_command_over_every_transport(transport: Transport) -> None:
    codec = Codec.JSON if transport in (Transport.TCP, Transport.HTTP) else Codec.BENCODE
    with serving() as there:
        target = f"{transport}:{there.bound.addresses[LISTENER[transport]]}"
        found = bgfctl("ng", target, "delete", "call-id=one", "--codec", codec.value, "--json")
        assert (found.code, json.loads(found.out)) == (0, {"result": "ok", "warning": "one"})
        shown = bgfctl("ng", target, "nonsense")
        assert shown.code == 1 and "unknown command 'nonsense'" in shown.out


def test_what_cannot_be_asked_is_one_line() -> None:
    for arguments, code, says in (
        (("sctp:127.0.0.1:9", "ping"), 2, "does not begin with one of udp, tcp, http, ws and ':'"),
        (("tcp:localhost:9", "ping"), 2, "'localhost' is not an IP address"),
        (("udp:127.0.0.1:9", "ping", "call-id"), 2, "'call-id' is not KEY=VALUE"),
        (("tcp:127.0.0.1:9", "ping", "--tries", "1"), 1, "no answer from 127.0.0.1:9 in 1 tries"),
    ):
        found = bgfctl("ng", *arguments)
        assert (found.code, found.out) == (code, "") and found.err.count("\n") == 1
        assert says in found.err
