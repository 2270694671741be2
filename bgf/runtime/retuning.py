"""What a running gateway process takes up of a changed file: peers, limits, hanging calls.

Knows: which part holds which value. Must not know files, nor decide what can be taken up.
Nothing here is part of a machine's state: a limit refuses a new call, and what was refused is not
in any journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bgf.config import NodeConfig, peers_of

if TYPE_CHECKING:
    from bgf.runtime.gateway_process import GatewayProcess


def retune(process: GatewayProcess, new: NodeConfig) -> list[str]:
    """Take it up; gives the keys for which that cannot be done while the process lives."""
    control = new.control
    process.limits = msgspec.structs.replace(
        process.limits, sessions_max=control.sessions_max, new_calls_per_s=control.new_calls_per_s
    )
    process.load.allow(control.memory_max_mb)
    process.reports.close_after(new.media.close_hanging_s, new.media.close_held_s)
    refused = set()
    for served in process.served.values():
        if served.driver is not None:
            served.driver.gateway.take_limits(process.limits)
        if served.server is not None:
            served.server.lag(control.lag_max_ms)
            peers = peers_of(control, served.group)
            if not served.server.admit(peers, control.rate_per_peer):
                refused.add("control.peers")
    return sorted(refused)
