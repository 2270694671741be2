"""The media benchmark's own parts: flows that fit their streams, books that close, rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import media_flows, media_program, media_rates
from benchmarks.media_lanes import Rate, by_turns
from benchmarks.media_plot import plot
from benchmarks.media_program import better_half
from benchmarks.media_rates import Bench
from benchmarks.media_rig import FAR_HOSTS, MEDIA_HOSTS, Clock, Spent
from benchmarks.media_soak import Books
from benchmarks.report import Report
from bgf.lab.rtpbench import Delays
from bgf.media.datapath import Outcome
from bgf.model import Address

MANY = 20_000
numbers = st.integers(0, media_flows.FLOWS_MAX - 1)
sixes = st.booleans()


# -- flows ---------------------------------------------------------------------------------------


@given(numbers, sixes, sixes)
def test_a_pinhole_takes_its_stream_and_sends_it_where_it_is_expected(
    number: int, in6: bool, out6: bool
) -> None:
    flow = media_flows.flow(number, in6, out6)
    assert flow.local_in == media_flows.local_in(number, in6)
    assert flow.source.admits(media_flows.caller(number, in6))
    assert not flow.source.admits(media_flows.caller(number + 1, in6))
    assert (flow.local_out, flow.remote) == (
        media_flows.local_out(number, out6),
        media_flows.callee(number, out6),
    )
    for address in (flow.local_in, flow.local_out, flow.remote, media_flows.caller(number, in6)):
        assert address is not None
        assert address == Address.of(address.host, address.port)


@given(st.lists(numbers, min_size=2, max_size=50, unique=True), sixes)
def test_no_two_flows_share_an_end(chosen: list[int], ip6: bool) -> None:
    for end in (
        media_flows.caller,
        media_flows.local_in,
        media_flows.local_out,
        media_flows.callee,
    ):
        assert len({end(number, ip6) for number in chosen}) == len(chosen)


def test_all_media_addresses_are_the_groups() -> None:
    held = {address.host for address in media_flows.group().addresses}
    for ip6 in (False, True):
        for number in range(MEDIA_HOSTS):
            assert media_flows.local_in(number, ip6).host in held
            assert media_flows.local_out(number, ip6).host in held
    for flow in (media_program.loop(), media_program.loop(True, False)):
        assert flow.local_in.host not in held, "it would be a hairpin"
    assert len({media_flows.callee(n, False).host for n in range(MANY)}) == FAR_HOSTS


def test_a_loop_leads_back_to_itself() -> None:
    same = media_program.loop()
    assert same.remote == same.local_in
    there, back = media_program.loop(True, False), media_program.loop(False, True)
    assert (there.remote, back.remote) == (back.local_in, there.local_in)
    assert (there.local_out, back.local_out) == tuple(
        media_program.SENDERS[flow.local_out.family] for flow in (there, back)
    )
    for flow in media_program.features().values():
        assert flow.source.admits(flow.local_out)
        assert flow != same


# -- figures -------------------------------------------------------------------------------------


def _rate(packets: int, core_s: float, wall_s: float = 1.0) -> Rate:
    return Rate(packets, Spent(wall_s, core_s, core_s, 0.0, core_s))


def test_a_rate_is_of_what_it_cost() -> None:
    rate = _rate(500, 0.25, 0.5)
    assert (rate.per_core_s, rate.per_second) == (2_000, 1_000)
    assert _rate(0, 0.0).per_core_s == 0


class _Scripted:
    """A lane that says what it was told to say."""

    def __init__(self, *rates: Rate) -> None:
        self._rates = iter(rates)

    def carry(self, seconds: float, packets_per_second: int = 0) -> Rate:
        return next(self._rates)


def test_the_best_round_of_each_counts() -> None:
    a = _Scripted(_rate(1, 1), _rate(3, 1), _rate(2, 1))
    b = _Scripted(_rate(9, 1), _rate(8, 1), _rate(7, 1))
    found = by_turns([a, b], 1.0, 3)  # type: ignore[list-item]
    assert [rate.packets for rate in found] == [3, 9]


def test_goals_are_on_the_ratio() -> None:
    bench = Bench(Report("test", 1), Path(), 1.0, 1)
    bench.row("bare", _rate(1_000_000, 1), "reference")
    bench.row("slow", _rate(740_000, 1), "too slow", bench.rates["bare"], media_rates.BARE_GOAL)
    bench.row("fast", _rate(750_000, 1), "enough", bench.rates["bare"], media_rates.BARE_GOAL)
    assert [row.met for row in bench.report.rows] == [None, False, True]
    assert bench.report.rows[1].value == 740


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=50))
def test_the_better_half_ignores_what_was_disturbed(found: list[int]) -> None:
    kept = better_half(found)
    assert min(found) <= kept <= sorted(found)[len(found) // 2]


def test_a_clock_sees_what_a_task_does() -> None:
    import os

    clock = Clock([os.getpid()])
    while clock.spent().tasks_s < 0.05:
        sum(range(10_000))
    spent = clock.spent()
    assert spent.wall_s > 0.025  # the readings are not of one moment
    assert spent.core_s >= min(spent.tasks_s, spent.busy_s)


# -- the soak's books ----------------------------------------------------------------------------


def _books(**changes: int) -> Books:
    outcomes = dict.fromkeys(Outcome, 0) | {
        Outcome.FORWARD: 70,
        Outcome.NO_PINHOLE: 20,
        Outcome.BAD_SOURCE: 5,
    }
    numbers = {"sent": 100, "refused_before": 5, "refused_behind": 3, "received": 67} | changes
    return Books(outcomes=outcomes, **numbers)


def test_books_that_close() -> None:
    books = _books()
    assert (books.missing_before, books.missing_behind) == (0, 0)
    assert books.drops == {Outcome.NO_PINHOLE: 20, Outcome.BAD_SOURCE: 5}


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"sent": 101}, (1, 0)),
        ({"refused_before": 4}, (1, 0)),
        ({"received": 66}, (0, 1)),
        ({"refused_behind": 4}, (0, -1)),
    ],
)
def test_one_packet_is_missed(changes: dict[str, int], missing: tuple[int, int]) -> None:
    books = _books(**changes)
    assert (books.missing_before, books.missing_behind) == missing


# -- the picture ---------------------------------------------------------------------------------


def test_a_picture_of_all_and_of_nothing(tmp_path: Path) -> None:
    bench = Bench(Report("test", 1), tmp_path, 1.0, 1)
    plot(bench, tmp_path / "empty.png")
    bench.row("bare", _rate(1_000_000, 1), "reference")
    bench.delays["ours"] = Delays((0, 5, 3, *[0] * 1021))
    bench.features["latch"] = 1.5
    plot(bench, tmp_path / "all.png")
    for name in ("empty.png", "all.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
