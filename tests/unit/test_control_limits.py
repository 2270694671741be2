"""Rates, prefixes, and the order of new calls: cores, whose time is an argument."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.control import access, newcalls, ng
from bgf.control.access import Access, packet_filter
from bgf.control.client import encode_request
from bgf.control.newcalls import Ask, NewCalls
from bgf.control.server import Incoming
from bgf.errors import LoadLimit
from bgf.events import Reply, Result, Verb
from bgf.gateway import Gateway, Limits
from bgf.model import Family
from bgf.rate import NS_PER_S, Rate
from bgf.runtime import load
from tests.fakes.calls import GROUP, REALMS, command, line, unhurried

MS = 1_000_000


# Rate


def test_a_rate_gives_a_second_at_once_and_then_its_share() -> None:
    rate = Rate(10)
    taken = 0
    for tick in range(300):  # three seconds, asked every 10 ms
        if rate.allows(tick * 10 * MS):
            rate.take(tick * 10 * MS)
            taken += 1
    assert taken == 10 + 29
    assert rate.wait_ns(299 * 10 * MS) > 0
    assert Rate(0).allows(0) and not Rate(0).wait_ns(0)


@unhurried
@given(st.integers(1, 5_000), st.lists(st.integers(0, NS_PER_S), max_size=200))
def test_never_more_than_the_rate_in_any_time(per_s: int, gaps: list[int]) -> None:
    rate, now_ns, taken = Rate(per_s), 0, []
    for gap in gaps:
        now_ns += gap // 50
        if rate.allows(now_ns):
            rate.take(now_ns)
            taken.append(now_ns)
        else:
            assert not rate.allows(now_ns + rate.wait_ns(now_ns) - 1)
            assert rate.allows(now_ns + rate.wait_ns(now_ns))
    for first, begun_ns in enumerate(taken):
        for last in range(first, len(taken)):
            allowed = per_s + (taken[last] - begun_ns) * per_s / NS_PER_S + 1
            assert last - first + 1 <= allowed + 1


# Who may speak


def run(program: bytes, source: str) -> int:
    """What classic BPF says, for the four instructions that are used."""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    packed = ipaddress.ip_address(source).packed
    offset = 12 if len(packed) == 4 else 8
    header = bytes(offset) + packed
    at = a = 0
    while True:
        kind, true, false, k = code[at]
        at += 1
        if kind == 0x20:
            a = struct.unpack_from(">I", header, k - 0xFFF0_0000)[0]
        elif kind == 0x54:
            a &= k
        elif kind == 0x15:
            at += true if a == k else false
        else:
            assert kind == 0x06
            return int(k)


prefixes = st.lists(
    st.one_of(
        st.builds(
            lambda n, b: str(ipaddress.ip_network((n, b), strict=False)),
            st.integers(0, 2**32 - 1),
            st.integers(0, 32),
        ),
        st.builds(
            lambda n, b: str(ipaddress.ip_network((n, b), strict=False)),
            st.integers(2**32, 2**128 - 1),
            st.integers(0, 128),
        ),
    ),
    max_size=6,
)


@unhurried
@given(prefixes, st.integers(0, 2**32 - 1), st.integers(2**32, 2**128 - 1), st.data())
def test_the_filter_says_what_the_list_says(
    allowed: Sequence[str], four: int, six: int, data: st.DataObject
) -> None:
    hosts = [str(ipaddress.ip_address(four)), str(ipaddress.ip_address(six))]
    for prefix in allowed:  # some inside, and on the edges
        network = ipaddress.ip_network(prefix)
        hosts += [str(network[0]), str(network[-1])]
        hosts.append(str(network[data.draw(st.integers(0, network.num_addresses - 1))]))
    listed = Access(allowed)
    for host in hosts:
        family = Family.IP6 if ":" in host else Family.IP4
        program = packet_filter(allowed, family, peer=7, stranger=3)
        assert (run(program, host) == 7) == listed.admits(host)
        assert len(program) // 8 <= 13 * len(allowed) + 1


def test_without_a_list_everybody_may_and_with_an_empty_one_nobody() -> None:
    assert Access().admits("192.0.2.1")
    assert not Access(()).admits("192.0.2.1")
    assert Access(("fe80::/10",)).admits("fe80::1%eth0")


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    some = Access(("10.0.0.0/8",), rate_per_peer=1)
    for number in range(access.HOSTS_MAX + 100):
        host = str(ipaddress.ip_address(0x0A00_0000 + number))
        assert some.admits(host) and some.take(host, 0)
    assert len(some._known) == len(some._rates) == access.HOSTS_MAX
    assert not some.take(host, 0) and some.wait_ns(host, 0) == NS_PER_S


# New calls


def asked(verb: str, call_id: str, cookie: str) -> Incoming:
    request: dict[str, str] = {"command": verb, "call-id": call_id, "from-tag": "a"}
    if verb == "offer":
        request["sdp"] = "v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\ns=-\r\nc=IN IP4 1.2.3.4\r\n"
        request["sdp"] += "t=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    frame = encode_request(cookie, request)
    return Incoming(ng.decode(frame)[1], frame, ("10.0.0.1", 5))


def ask(queue: NewCalls, incoming: Incoming, now_ns: int = 0) -> Ask | str:
    return queue.ask(incoming.request, incoming.peer, incoming, now_ns)


def test_only_offers_of_unknown_calls_wait_and_what_follows_them() -> None:
    queue = NewCalls({"old"}.__contains__)
    assert ask(queue, asked("offer", "old", "1")) is Ask.SERVE
    assert ask(queue, asked("delete", "new", "2")) is Ask.SERVE  # of a call that is nowhere
    assert ask(queue, asked("offer", "new", "3")) is Ask.WAIT
    assert ask(queue, asked("offer", "new", "3")) is Ask.REPEATED
    assert ask(queue, asked("delete", "new", "4")) is Ask.WAIT
    assert ask(queue, asked("query", "old", "5")) is Ask.SERVE
    order = []
    while (found := queue.next(0)) is not None:
        order.append((found[0].request.verb, found[1]))
    assert order == [(Verb.OFFER, ""), (Verb.DELETE, "")]
    assert ask(queue, asked("delete", "new", "4")) is Ask.SERVE
    assert not queue._calls and not queue._there


def test_a_queue_too_long_sheds_and_what_follows_does_not_wait_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(newcalls, "WAITING_MAX", 4)
    queue = NewCalls(lambda call_id: False)
    queue.took(1_000)
    for number in range(4):
        assert ask(queue, asked("offer", f"n{number}", f"{number}")) is Ask.WAIT
    refused = ask(queue, asked("offer", "one more", "9"))
    assert refused == "waiting_max: 4 new calls wait already: use another node"
    for number in range(4):
        assert ask(queue, asked("query" if number else "delete", "n1", f"f{number}")) is Ask.WAIT
    assert ask(queue, asked("delete", "n1", "f9")) is Ask.SERVE
    queue.clear()
    assert queue.next(0) is None and len(queue) == 0


def test_what_a_call_costs_says_how_many_may_wait() -> None:
    queue = NewCalls(lambda call_id: False, lag_max_ms=100)
    for _ in range(200):
        queue.took(20 * MS)
    results = [ask(queue, asked("offer", f"n{number}", f"{number}")) for number in range(10)]
    waiting = results.count(Ask.WAIT)
    assert waiting == 6  # the 6th would wait 100 ms, the 7th 120
    assert results[waiting] == "lag_max_ms: 6 new calls wait 120 ms: use another node"


def test_who_has_waited_too_long_is_refused_unless_the_call_has_come_meanwhile() -> None:
    here: set[str] = set()
    queue = NewCalls(here.__contains__, lag_max_ms=100)
    for number in range(3):
        ask(queue, asked("offer", f"n{number}", f"{number}"))
    ask(queue, asked("delete", "n0", "d"))
    assert queue.next(100 * MS) is not None
    here.add("n1")
    late = [queue.next(101 * MS) for _ in range(3)]
    reasons = [found[1] for found in late if found is not None]
    assert reasons == ["", "lag_max_ms: control is 101 ms late: use another node", ""]


def test_overload_refuses_new_calls_alone() -> None:
    queue = NewCalls({"old"}.__contains__, lambda: "memory_max_mb: full")
    assert ask(queue, asked("offer", "new", "1")) == "memory_max_mb: full"
    assert ask(queue, asked("offer", "old", "2")) is Ask.SERVE
    assert ask(queue, asked("delete", "new", "3")) is Ask.SERVE


# In the machine


def offer(gateway: Gateway, call_id: str, now_ns: int) -> tuple[Result, str]:
    cookie = f"{call_id}-{now_ns}"
    wanted = command(Verb.OFFER, cookie, line("10.20.0.2", 4000), call=call_id)
    wanted = msgspec.structs.replace(wanted, now_ns=now_ns)
    (reply,) = [e for e in gateway.step(gateway.draw(wanted, 0)) if isinstance(e, Reply)]
    return reply.result, reply.reason


def test_new_calls_of_a_group_have_a_rate_by_the_events_own_time() -> None:
    def story(gateway: Gateway) -> list[Result]:
        times = [0] * 5 + [NS_PER_S] * 2 + [10 * NS_PER_S] * 4
        return [offer(gateway, f"c{n}", at)[0] for n, at in enumerate(times)]

    ok, no = Result.OK, Result.LOAD_LIMIT
    gateway = Gateway(GROUP, REALMS, Limits(new_calls_per_s=3))
    assert story(gateway) == [ok, ok, ok, no, no, ok, ok, ok, ok, ok, no]
    reason = offer(gateway, "more", 10 * NS_PER_S)[1]
    assert reason == "new_calls_per_s: group g1 takes 3 new calls a second: slow down"
    assert offer(gateway, "c0", 10 * NS_PER_S)[0] is ok  # a re-offer is no new call
    again = Gateway(GROUP, REALMS, Limits(new_calls_per_s=3))
    assert story(again) == [ok, ok, ok, no, no, ok, ok, ok, ok, ok, no]
    assert offer(again, "c0", 10 * NS_PER_S)[0] is ok
    assert again.digest() == gateway.digest()


# Memory


def test_memory_is_measured_and_named_in_the_refusal() -> None:
    before = load.resident_bytes()
    held = bytearray(b"x" * (32 << 20))
    assert load.resident_bytes() - before > 24 << 20
    assert held and load.allowed_bytes() > 64 << 20
    tight = load.Load(memory_max_mb=1)
    assert tight.overload().startswith("memory_max_mb: ")
    assert tight.overload().endswith("1 are allowed: use another node")
    assert load.Load().overload() == ""


def test_the_least_of_the_control_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("123456789\n")
    (inner / "memory.max").write_text("max\n")
    group = tmp_path / "cgroup"
    group.write_text("0::/a/b\n")
    monkeypatch.setattr(load, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(load, "_CGROUP", group)
    assert load.allowed_bytes() == 123_456_789
    assert load.Load().memory_max_bytes == int(123_456_789 * load.MEMORY_PART)


def test_a_load_limit_of_ours_is_what_the_peer_understands() -> None:
    frame = encode_request("k", {"command": "delete", "call-id": "c"})
    assert b"31:Parallel" not in frame
    refusal = ng.refuse(frame, LoadLimit("memory_max_mb: full"))
    assert refusal is not None and b"Parallel session limit reached" in refusal
