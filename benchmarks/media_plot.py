"""The media benchmark as a picture: rates, delays, what each feature takes.

Knows: what the benchmark has found. Must not know how.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Final

from benchmarks.media_lanes import MICROSECOND_NS
from benchmarks.media_rates import KILO, Bench
from bgf.lab.rtpbench import Delays, class_end_ns

DPI: Final = 110
MEGA: Final = KILO * KILO


def plot(bench: Bench, path: Path) -> None:
    """Draw what there is; a part that was left out stays empty."""
    # It asks for a display unless told otherwise.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (rates, delays, features) = pyplot.subplots(1, 3, figsize=(16, 5))
    names = list(bench.rates)
    values = [bench.rates[name].per_core_s / MEGA for name in names]
    bars = rates.barh(names, values, color="tab:blue")
    rates.bar_label(bars, [f" {value:.2f}" for value in values])
    rates.invert_yaxis()
    rates.margins(x=0.15)
    rates.set_xlabel("million packets per core-second, the kernel's share included")
    rates.set_title("Rate")

    for name, found in bench.delays.items():
        style = ":" if name.startswith("wire") else "-"
        delays.plot(*_curve(found), label=name, linestyle=style)
    delays.set_xscale("log")
    delays.set_xlabel("from generator to receiver, us")
    delays.set_ylabel("packets with at most this delay, %")
    delays.set_title("Delay at half of each one's capacity")
    if bench.delays:
        delays.legend(loc="lower right", fontsize=8)

    names = list(bench.features)
    values = [bench.features[name] for name in names]
    features.bar_label(features.barh(names, values, color="tab:orange"), fmt=" %.1f")
    features.invert_yaxis()
    features.margins(x=0.15)
    features.set_xlabel("ns more per packet than without it")
    features.set_title("What each feature takes")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _curve(delays: Delays) -> tuple[list[float], list[float]]:
    """Delay in us, and the share of packets that had no more, in percent."""
    whole = max(1, delays.packets)
    points = [
        (class_end_ns(index) / MICROSECOND_NS, 100 * seen / whole)
        for index, (seen, count) in enumerate(
            zip(accumulate(delays.counts), delays.counts, strict=True)
        )
        if count
    ]
    return [at for at, _ in points], [share for _, share in points]
