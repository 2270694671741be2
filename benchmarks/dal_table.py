"""Table I of the paper: access latency, ours, the published figures, the peers of this run."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.report import Report

# The paper's Table I, microseconds: Redis, S6, DAL with one server per NF.
PUBLISHED: Final = {
    "local read": (69.84, 0.16, 0.12),
    "local write": (94.65, 0.17, 2.30),
    "remote read": (73.88, 18.41, 21.20),
    "remote write": (94.04, 18.23, 22.74),
}
# Rows of this run: ours and its factor to microseconds, Redis, etcd.
MEASURED: Final = {
    "local read": ("local_read_64B_c_ns", 1e-3, "redis_local_read_us", "etcd_read_us"),
    "local write": ("local_write_64B_c_ns", 1e-3, "redis_local_write_us", "etcd_write_us"),
    "remote read": ("remote_read_us", 1.0, "redis_remote_read_us", None),
    "remote write": ("remote_write_us", 1.0, "redis_remote_write_us", None),
}


def render(report: Report, console: Console) -> None:
    """The table, as far as this run has its rows."""
    found = {row.name: row.value for row in report.rows}

    def cell(name: str | None, factor: float = 1.0) -> str:
        return f"{found[name] * factor:,.3f}" if name in found else "-"

    table = Table(
        title="Table I: access latency, 64 B, microseconds",
        caption="published: as the paper has them, on its machines; the others: this run",
    )
    table.add_column("", no_wrap=True)
    for heading in (
        "ours",
        "Redis here",
        "etcd here",
        "Redis, published",
        "S6, published",
        "DAL, published",
    ):
        table.add_column(heading, justify="right")
    for name, published in PUBLISHED.items():
        ours, factor, redis, etcd = MEASURED[name]
        row = [cell(ours, factor), cell(redis), cell(etcd)]
        table.add_row(name, *row, *(f"{value:,.2f}" for value in published))
    console.print(table)
