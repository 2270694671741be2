"""The E-model against the values that ITU-T G.107 and G.113 give."""

from __future__ import annotations

import pytest

from bgf.model import RtpStatistics
from bgf.quality import PACKETS_MIN, loss_percent, mos, mos_of, r_factor


@pytest.mark.parametrize(
    ("r", "score"),
    [(-5, 1.0), (0, 1.0), (50, 2.58), (60, 3.10), (70, 3.60), (80, 4.02), (90, 4.34),
     (93.2, 4.41), (100, 4.5), (130, 4.5)],
)  # fmt: skip
def test_ratings_become_scores_as_annex_b_has_them(r: float, score: float) -> None:
    assert mos_of(r) == pytest.approx(score, abs=0.01)


def test_loss_and_delay_take_away_and_never_give() -> None:
    assert r_factor(0, 0) == pytest.approx(93.2)
    assert r_factor(0, 150) == pytest.approx(93.2 - 3.6)
    assert r_factor(0, 277.3) == pytest.approx(93.2 - 6.6552 - 11, abs=0.01)
    assert r_factor(25.1, 0) == pytest.approx(93.2 - 47.5)  # half of 95 at Bpl
    ratings = [r_factor(loss, 20) for loss in range(101)]
    assert ratings == sorted(ratings, reverse=True)
    scores = [mos_of(rating) for rating in ratings]
    assert scores == sorted(scores, reverse=True) and scores[-1] >= 1.0


def heard(**fields: int) -> RtpStatistics:
    return RtpStatistics(**({"packets": 1_000, "expected": 1_000} | fields))


def test_a_stream_is_scored_from_what_its_headers_say() -> None:
    clean, lossy = mos(heard()), mos(heard(packets=950, lost=50))
    jittery = mos(heard(jitter=8_000))  # a whole second
    assert clean is not None and lossy is not None and jittery is not None
    assert clean == pytest.approx(4.40, abs=0.01)
    assert lossy == pytest.approx(3.95, abs=0.05)
    assert jittery < lossy < clean
    assert mos(heard(packets=1_010, lost=-10)) == clean
    assert mos(heard(packets=PACKETS_MIN - 1)) is None
    assert loss_percent(RtpStatistics()) == 0.0
    assert loss_percent(heard(lost=5_000)) == 100.0
