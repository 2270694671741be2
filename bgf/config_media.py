"""What a node's file says of media: the `[media]` section, and the policy of each realm.

Knows: the keys, their ranges, and how they depend on each other. Must not know what the values
are used for. A realm's keys of this file are the same on every node that may own its groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bgf.model import Latch, Policer
from bgf.policy import RealmPolicy, RtpCheck, StreamRule
from bgf.toml_table import Table, bare, plain_path, quote

PATH_RULE: Final = "an absolute path of printable characters without '..'"
PINHOLES_RANGE: Final = (4, 4_194_304)
ATTACH_MODES: Final = ("auto", "native", "generic")
QUARANTINE_MS_RANGE: Final = (0, 60_000)
QUARANTINE_MS: Final = 5_000
CLOSE_HANGING_S_RANGE: Final = (0, 86_400)
CLOSE_HELD_S_RANGE: Final = (0, 604_800)
CLOSE_HELD_S: Final = 3_600  # as rtpengine, silent-timeout

LATCH_MODES: Final = {"off": Latch.OFF, "latch": Latch.LATCH, "strict": Latch.STRICT}
INACTIVITY_S_RANGE: Final = (0, 86_400)
INACTIVITY_S: Final = 60
DSCP_RANGE: Final = (0, 63)
RATE_RANGE: Final = (1, 10_000_000_000)  # bytes/s
BURST_RANGE: Final = (256, 1 << 30)  # bytes
BURST_MIN_BYTES: Final = 3_000  # by default: two packets of an Ethernet's size
BURST_PARTS: Final = 10  # by default a tenth of a second may come at once
PEAK_BURST_BYTES: Final = 1_500
KINDS_MAX: Final = 16
REALM_KEYS: Final = ("latch", "rtp_check", "inactivity_s", "streams")

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_KIND_RULE = "a media kind of SDP, as in 'audio' or 'video', or 'any' for those without a rule"


@dataclass(frozen=True, slots=True)
class MediaSection:
    """The packet path: where its pins are, how many pinholes, how to attach it.

    A released port pair is not given out for `port_quarantine_ms`. The owner ends a call that has
    had no media for `close_hanging_s`; 0: nobody does. Of a call without a stream that should carry
    any it is `close_held_s` without a packet, an offer or an answer; 0: nobody does.
    """

    pin_dir: Path
    pinholes_max: int = 65_536
    attach: str = "auto"
    port_quarantine_ms: int = QUARANTINE_MS
    close_hanging_s: int = 0
    close_held_s: int = CLOSE_HELD_S


def parse_media(table: Table) -> MediaSection:
    """Raises ConfigError."""
    table.only(
        *("pin_dir", "pinholes_max", "attach", "port_quarantine_ms"),
        *("close_hanging_s", "close_held_s"),
    )
    modes = ", ".join(f"'{mode}'" for mode in sorted(ATTACH_MODES))
    return MediaSection(
        Path(table.text("pin_dir", plain_path, PATH_RULE)),
        table.integer("pinholes_max", PINHOLES_RANGE, 65_536),
        table.text("attach", ATTACH_MODES.__contains__, f"one of {modes}", "auto"),
        table.integer("port_quarantine_ms", QUARANTINE_MS_RANGE, QUARANTINE_MS),
        table.integer("close_hanging_s", CLOSE_HANGING_S_RANGE, 0),
        table.integer("close_held_s", CLOSE_HELD_S_RANGE, CLOSE_HELD_S),
    )


def dump_media(media: MediaSection) -> list[str]:
    """The lines of the section, as `parse_media` reads them."""
    return [
        "[media]",
        f"pin_dir = {quote(str(media.pin_dir))}",
        f"pinholes_max = {media.pinholes_max}",
        f"attach = {quote(media.attach)}",
        f"port_quarantine_ms = {media.port_quarantine_ms}",
        f"close_hanging_s = {media.close_hanging_s}",
        f"close_held_s = {media.close_held_s}",
    ]


def parse_policy(table: Table) -> RealmPolicy:
    """The REALM_KEYS of a `[realms.NAME]` table. Raises ConfigError."""
    modes = ", ".join(f"'{mode}'" for mode in LATCH_MODES)
    checks = ", ".join(f"'{check.value}'" for check in RtpCheck)
    latch = table.text("latch", LATCH_MODES.__contains__, f"one of {modes}", "off")
    known = {check.value for check in RtpCheck}
    check = table.text("rtp_check", known.__contains__, f"one of {checks}", "off")
    rules = table.table("streams", required=False)
    if len(rules.data) > KINDS_MAX:
        table.fail("streams", rules.data, f"rules for at most {KINDS_MAX} media kinds")
    return RealmPolicy(
        LATCH_MODES[latch],
        RtpCheck(check),
        table.integer("inactivity_s", INACTIVITY_S_RANGE, INACTIVITY_S) * 1_000,
        {kind: _rule(rules, kind) for kind in rules.data},
    )


def _rule(rules: Table, kind: str) -> StreamRule:
    if not _KIND.fullmatch(kind):
        rules.fail(kind, rules.data[kind], f"the key must be {_KIND_RULE}")
    table = rules.table(kind)
    table.only("dscp", "sustained_bytes_s", "burst_bytes", "peak_bytes_s", "peak_burst_bytes")
    dscp = table.integer("dscp", DSCP_RANGE, 0) if "dscp" in table.data else None
    sustained = _optional(table, "sustained_bytes_s")
    peak = _optional(table, "peak_bytes_s")
    for burst, rate in (("burst_bytes", sustained), ("peak_burst_bytes", peak)):
        if burst in table.data and not rate:
            needed = "sustained_bytes_s" if burst == "burst_bytes" else "peak_bytes_s"
            table.fail(burst, table.data[burst], f"means nothing without {needed}")
    if peak and peak < sustained:
        table.fail("peak_bytes_s", peak, f"is below sustained_bytes_s, {sustained}")
    default = min(BURST_RANGE[1], max(BURST_MIN_BYTES, sustained // BURST_PARTS))
    policer = Policer(
        sustained,
        table.integer("burst_bytes", BURST_RANGE, default) if sustained else 0,
        peak,
        table.integer("peak_burst_bytes", BURST_RANGE, PEAK_BURST_BYTES),
    )
    return StreamRule(policer if sustained or peak else None, dscp)


def _optional(table: Table, key: str) -> int:
    return table.integer(key, RATE_RANGE) if key in table.data else 0


def dump_policy(policy: RealmPolicy) -> Iterator[str]:
    """The lines of a realm's table, as `parse_policy` reads them."""
    latch = next(name for name, mode in LATCH_MODES.items() if mode is policy.latch)
    yield f"latch = {quote(latch)}"
    yield f"rtp_check = {quote(policy.rtp_check.value)}"
    yield f"inactivity_s = {policy.inactivity_ms // 1_000}"
    if policy.rules:
        rules = ", ".join(f"{bare(k)} = {{ {_rule_toml(r)} }}" for k, r in policy.rules.items())
        yield f"streams = {{ {rules} }}"


def _rule_toml(rule: StreamRule) -> str:
    values = {} if rule.dscp is None else {"dscp": rule.dscp}
    policer = rule.policer
    if policer is not None and policer.sustained_bytes_s:
        values |= {"sustained_bytes_s": policer.sustained_bytes_s}
        values |= {"burst_bytes": policer.burst_bytes}
    if policer is not None and policer.peak_bytes_s:
        values |= {"peak_bytes_s": policer.peak_bytes_s}
        values |= {"peak_burst_bytes": policer.peak_burst_bytes}
    return ", ".join(f"{key} = {value}" for key, value in values.items())
