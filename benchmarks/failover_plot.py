"""The paper's figure 8 with our curves: how long media is silent, by flows on the node that dies.

Knows: what the samples say, through `failover_rows`. Must not know how they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import failover_rows
from benchmarks.failover_book import Sample

DPI: Final = 110
TOLERATED_MS: Final = (2_000, 3_000)
"""The paper's shaded area: who hears nothing for longer hangs up."""
COLOURS: Final = {"lab": "tab:blue", "safe": "tab:green", "fast": "tab:orange"}
PEERS: Final = {"peer-default": "v", "peer-fast": "^"}


def plot(of: Callable[[str], Sequence[Sample]], path: Path) -> None:
    """Draw what there is; a part that was left out is not there."""
    # It asks for a display unless told otherwise.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(12, 6))
    axes.axhspan(*TOLERATED_MS, color="0.9", label="a listener hangs up")
    axes.axhline(failover_rows.PAPER_OUTAGE_MS, color="0.4", linestyle="--", label="paper: media")
    axes.axhline(failover_rows.PAPER_CONTROL_MS, color="0.4", linestyle=":", label="paper: all")
    for profile, colour in COLOURS.items():
        points = list(failover_rows.curve(of, profile))
        if points:
            flows = [at for at, _ in points]
            axes.plot(flows, [p["mean"] for _, p in points], color=colour, marker="o",
                      label=f"{profile}: mean of all flows")  # fmt: skip
            axes.plot(flows, [p["max"] for _, p in points], color=colour, marker="_",
                      linestyle="-.", label=f"{profile}: the longest of all")  # fmt: skip
            axes.plot(flows, [p["floor"] for _, p in points], color=colour, linestyle=":",
                      label=f"{profile}: floor")  # fmt: skip
    for name, marker in PEERS.items():
        samples = of(name)
        if samples:
            mean = sum(float(s["mean_ms"]) for s in samples) / len(samples)
            told = f"rtpengine, Redis, keepalived ({samples[-1]['adverts']})"
            axes.plot([samples[-1]["flows"]], [mean], marker, color="tab:red", label=told)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("RTP flows on the node that dies")
    axes.set_ylabel("silence at the receivers, ms")
    axes.set_title("Power off: how long nobody hears anything")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
