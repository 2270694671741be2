"""Figures in replies: of a call that is just ending, of a node; and what is asked again."""

from __future__ import annotations

from typing import Any

from bgf.control import ng
from bgf.control.client import decode_reply, encode_request
from bgf.events import Reply, Verb
from bgf.model import Address
from bgf.runtime import measures as room
from bgf.runtime.measures import Measures
from bgf.runtime.served import Served
from tests.fakes.calls import GROUP, NS_PER_MS, command, line
from tests.fakes.datapath import FakeDatapath, Packet
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared

ALICE, BOB = Address("10.10.0.2", 4000), Address("10.20.0.2", 6000)


class Rig:
    def __init__(self, shared: Shared | None = None) -> None:
        self.datapath = FakeDatapath([GROUP])
        self.datapath.arm("g1", 1 << 62)
        self.node = Node(shared or Shared(), self.datapath, policies={})
        self.served = Served(GROUP)
        self.served.driver = self.node.driver
        self.measures = Measures(self.datapath, {"g1": self.served}, lambda: 7)
        self.at_ms = 0

    def ask(self, cookie: str, **fields: Any) -> dict[str, Any]:
        keys = {key.replace("_", "-"): value for key, value in fields.items()}
        request = ng.decode(encode_request(cookie, keys))[1]
        self.measures.before(self.node.gateway, request)
        self.at_ms += 1
        at_ns = 10**9 + self.at_ms * NS_PER_MS
        made = request.command(at_ns, 1_700_000_000, self.measures.carried)
        assert self.node.driver.handle(made, self.at_ms) is not None
        reply: Reply = self.node.replies.last
        reply, measured = self.measures.of(request, reply)
        rendered = ng.render(request, reply, measured)
        self.measures.after(request, "10.30.0.5", reply)
        return decode_reply(rendered)[1]

    def establish(self, call: str) -> None:
        offered = command(
            Verb.OFFER, f"{call}-o", line(ALICE.host, ALICE.port), call=call, wall_s=1_699_999_000
        )
        self.node.run(offered)
        self.node.run(command(Verb.ANSWER, f"{call}-a", line(BOB.host, BOB.port), call=call))

    def talk(self, call: str, packets: int) -> None:
        flow = self.node.gateway.expected_flows(call)[0]
        for _ in range(packets):
            self.datapath.send(Packet("access", ALICE, flow.local_in, b"\x80\0" + bytes(30)))


def test_the_end_of_a_call_tells_what_it_carried_and_tells_it_again() -> None:
    rig = Rig()
    rig.establish("c")
    rig.talk("c", 5)
    end = {"command": "delete", "call_id": "c", "from_tag": "alice"}
    told = rig.ask("k1", **end)
    assert told["totals"]["RTP"]["packets"] == 5 and set(told["tags"]) == {"alice", "bob"}
    assert not rig.datapath.keys()
    assert rig.ask("k1", **end) == told
    other = rig.ask("k2", **end)
    assert "nothing to delete" in other["warning"] and "totals" not in other


def test_the_next_owner_still_knows_what_the_call_carried() -> None:
    """A delete whose reply nobody heard: its node and its counters are gone when it is repeated."""
    shared = Shared()
    first = Rig(shared)
    first.establish("c")
    first.talk("c", 5)
    end = {"command": "delete", "call_id": "c", "from_tag": "alice"}
    told = first.ask("k1", **end)
    for _ in range(2):  # and the one after it
        second = Rig(shared)
        again = second.ask("k1", **end)
        assert again == {key: told[key] for key in ("result", "created", "totals")}
        assert again["totals"]["RTP"]["packets"] == 5 and again["created"] == 1_699_999_000
    assert "totals" not in Rig(shared).ask("k2", **end)


def test_a_call_that_ends_at_its_next_owner_tells_what_that_one_carried() -> None:
    shared = Shared()
    first = Rig(shared)
    first.establish("c")
    first.talk("c", 5)
    second = Rig(shared)
    second.node.restore_all(0)
    second.talk("c", 3)
    told = second.ask("k1", command="delete", call_id="c", from_tag="alice")
    assert told["totals"]["RTP"]["packets"] == 3
    assert second.ask("k1", command="delete", call_id="c", from_tag="alice") == told


def test_what_is_kept_of_ends_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(room, "DELETES_KEPT_MAX", 2)
    rig = Rig()
    for call in "abc":
        rig.establish(call)
        assert "totals" in rig.ask(call, command="delete", call_id=call, from_tag="alice")
    again = rig.ask("a", command="delete", call_id="a", from_tag="alice")
    assert "totals" in again and "tags" not in again
    assert "totals" in rig.ask("c", command="delete", call_id="c", from_tag="alice")


def test_a_callee_that_goes_is_no_end_of_the_calls_bytes() -> None:
    rig = Rig()
    rig.establish("c")
    other = command(Verb.ANSWER, "a2", line("10.20.0.3", 7000), call="c", to_tag="carol")
    rig.node.run(other)
    rig.talk("c", 3)
    rig.ask("k1", command="delete", call_id="c", from_tag="alice", to_tag="bob")
    live = rig.measures.statistics()["totalstatistics"]
    assert isinstance(live, dict) and live["relayedbytes"] > 0
    carried = live["relayedbytes"]
    rig.ask("k2", command="delete", call_id="c", from_tag="alice", to_tag="carol")
    rig.measures._statistics = None  # it is a second old
    ended = rig.measures.statistics()["totalstatistics"]
    assert isinstance(ended, dict) and ended["relayedbytes"] == carried


def test_statistics_of_a_node() -> None:
    rig = Rig()
    for call in ("a", "b"):
        rig.establish(call)
    rig.talk("a", 60)
    rig.ask("k1", command="delete", call_id="b", from_tag="alice")
    refused = rig.ask("k2", command="query", call_id="nobody")
    assert refused["result"] == "error"
    told = rig.ask("k3", command="statistics")["statistics"]
    now, past = told["currentstatistics"], told["totalstatistics"]
    assert (now["sessionsown"], now["sessionsforeign"], now["sessionstotal"]) == (1, 7, 8)
    assert (past["managedsessions"], past["regularterminatedsessions"]) == (2, 1)
    assert past["relayedpackets"] == past["relayedpackets_kernel"] == 60
    control = told["controlstatistics"]
    assert (control["totaldeletecount"], control["totalquerycount"]) == (1, 1)
    assert control["totalerrorcount"] == 1
    (proxy,) = control["proxies"]
    assert proxy["proxy"] == "10.30.0.5" and proxy["deletecount"] == 1
    used = {one["name"]: one["ports"]["used"] for one in told["interfaces"]}
    assert set(used) == {"g1/access", "g1/core"} and set(used.values()) == {4}
    # Counts outlive the machine that has counted.
    rig.served.driver = None
    rig.measures._statistics = None
    again = rig.measures.statistics()
    assert isinstance(again["totalstatistics"], dict)
    assert again["totalstatistics"]["managedsessions"] == 2
