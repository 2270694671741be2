"""Where a command's time goes: microseconds by stage, in one process, without a client in between.

Knows: the parts that a gateway process is made of, and that each may be put behind a stop-watch. A
real store, a real packet path and real sockets, in a namespace of their own. The watches cost time
themselves, so the whole is measured without them; time is that of the processor, and of many
rounds the quickest counts: other work on the machine is not to.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import statestore
from benchmarks.control_load import RECEIVE_BYTES, Call, calls
from benchmarks.control_rig import PINHOLES, STATE_MB, Gateways
from benchmarks.report import Report
from bgf.config import NodeConfig
from bgf.control import ng
from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.media.xdp import XdpDatapath
from bgf.runtime.cluster import views_of
from bgf.runtime.gateway_process import GatewayProcess
from bgf.runtime.process import few_collections
from bgf.runtime.served import Served
from failover.registry import Ownership

ROUNDS, QUICK_ROUNDS = 30, 10
ROUND_CALLS: Final = 50
WARM_CALLS: Final = 300
ACTIVE_TRIES: Final = 500
ACTIVE_S: Final = 0.02
VERBS: Final = ("offer", "answer", "delete")
PING: Final = b"0_0 d7:command4:pinge"
NS_PER_US: Final = 1_000


class _Watches:
    """Processor time by stage, of the functions that are put behind one."""

    def __init__(self) -> None:
        self.spent_ns: dict[str, int] = {}
        self._undo: list[tuple[Any, str, Any]] = []

    def put(self, stage: str, owner: Any, *names: str) -> None:
        for name in names:
            self._put(stage, owner, name)

    def _put(self, stage: str, owner: Any, name: str) -> None:
        work: Callable[..., Any] = getattr(owner, name)
        spent, clock = self.spent_ns, time.thread_time_ns
        spent[stage] = 0

        def timed(*arguments: Any, **named: Any) -> Any:
            began = clock()
            try:
                return work(*arguments, **named)
            finally:
                spent[stage] += clock() - began

        self._undo.append((owner, name, work))
        setattr(owner, name, timed)

    def remove(self) -> None:
        for owner, name, work in self._undo:
            setattr(owner, name, work)


class _Asker:
    """A client of the process's own, and how the process is made to take in what it sent."""

    def __init__(self, served: Served) -> None:
        assert served.server is not None
        self._server = served.server
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((served.server.address.host, 0))
        self._socket.connect((served.server.address.host, served.server.address.port))

    def ask(self, frame: bytes) -> int:
        """Processor time of the server's part, ns. Raises EnvironmentProblem."""
        self._socket.send(frame)
        began = time.thread_time_ns()
        self._server.read()
        spent = time.thread_time_ns() - began
        reply = self._socket.recv(RECEIVE_BYTES)
        if b"6:result2:ok" not in reply and b"4:pong" not in reply:
            raise EnvironmentProblem(f"the gateway answers {reply[:200]!r}")
        return spent

    def close(self) -> None:
        self._socket.close()


def measure(report: Report, quick: bool) -> None:
    """All rows. Raises BgfError."""
    gateways = Gateways(nodes=1, groups=1, clustered=False, journal="checkpointed")
    node = gateways.nodes[0]
    with gateways.built():
        config = gateways.config(node)
        rounds = QUICK_ROUNDS if quick else ROUNDS
        host = config.groups[0].control.host
        namespaces.run_in(node.namespace, lambda: _add_address(host))
        namespaces.run_in(
            node.namespace, lambda: asyncio.run(_in_one_process(config, report, rounds))
        )


def _add_address(host: str) -> None:
    """As the failover process would."""
    with namespaces.netlink() as netlink:
        index = netlink.link_lookup(ifname="mgmt")[0]
        netlink.addr("add", index=index, address=host, prefixlen=24)


async def _in_one_process(config: NodeConfig, report: Report, rounds: int) -> None:
    group = config.groups[0]
    config.node.run_dir.mkdir(parents=True, exist_ok=True)
    store = statestore.open(config.state.address, size_bytes=STATE_MB << 20)
    realms = {realm.name: realm.interface for realm in config.media_realms}
    datapath = XdpDatapath(
        config.media.pin_dir, realms, config.groups, discriminator=1, pinholes_max=PINHOLES
    )
    registry, close_registry = views_of(config, store)
    registry.claim(group.id, Ownership(), config.node.id)
    process = GatewayProcess(config, store, datapath, registry)
    try:
        process.open()
        process.refresh_roles()
        served = process.served[group.id]
        await _until_active(served)
        few_collections()
        asker = _Asker(served)
        try:
            _rows(process, served, asker, report, rounds)
        finally:
            asker.close()
    finally:
        process.close()
        datapath.close(unpin=True)
        close_registry()
        store.close()


async def _until_active(served: Served) -> None:
    for _ in range(ACTIVE_TRIES):
        if served.driver is not None and served.driver.restored:
            return
        await asyncio.sleep(ACTIVE_S)
    raise EnvironmentProblem("the gateway does not become active")


def _rows(
    process: GatewayProcess, served: Served, asker: _Asker, report: Report, rounds: int
) -> None:
    _run(asker, calls("w", WARM_CALLS))
    process.follow()
    whole: dict[str, float] = {}
    for number in range(rounds):
        spent = _run(asker, calls(f"s{number}", ROUND_CALLS))
        process.follow()
        if not whole or sum(spent.values()) < sum(whole.values()):
            whole = spent
    report.add("command_us", sum(whole.values()) / len(VERBS), "us", note="server's part; mean")
    for verb in VERBS:
        report.add(f"command_us_{verb}", whole[verb], "us", note="server's part")
    ping_us = min(asker.ask(PING) for _ in range(WARM_CALLS)) / NS_PER_US
    report.add("command_us_ping", ping_us, "us", note="what any command costs: sockets and frames")
    stages = _stages(process, served, asker, rounds)
    for stage, spent_us in stages.items():
        report.add(f"stage_us_{stage}", spent_us, "us", note="with stop-watches; mean of the three")


def _run(asker: _Asker, load: list[Call]) -> dict[str, float]:
    """Microseconds of each verb."""
    spent = dict.fromkeys(VERBS, 0)
    for call in load:
        spent["offer"] += asker.ask(call.offer)
        spent["answer"] += asker.ask(call.answer)
        spent["delete"] += asker.ask(call.delete)
    return {verb: ns / len(load) / NS_PER_US for verb, ns in spent.items()}


def _stages(
    process: GatewayProcess, served: Served, asker: _Asker, rounds: int
) -> dict[str, float]:
    driver, server = served.driver, served.server
    assert driver is not None
    watches = _Watches()
    watches.put("decode", ng, "decode")
    watches.put("render", ng, "render")
    watches.put("plan", driver.gateway, "draw", "plan")
    watches.put("step", driver.gateway, "commit")
    watches.put("entry", driver.recorder, "record")
    watches.put("journal", driver.hands, "commit")
    watches.put("flows", driver.hands, "record")
    watches.put("packet_path", process.datapath, "install", "remove", "measured")
    watches.put("send", server, "send")
    best: dict[str, float] = {}
    try:
        for number in range(rounds):
            for stage in watches.spent_ns:
                watches.spent_ns[stage] = 0
            whole = sum(_run(asker, calls(f"t{number}", ROUND_CALLS)).values()) / len(VERBS)
            process.follow()
            count = ROUND_CALLS * len(VERBS) * NS_PER_US
            found = {stage: ns / count for stage, ns in watches.spent_ns.items()}
            found["rest"] = whole - sum(found.values())
            if not best or whole < sum(best.values()):
                best = found
    finally:
        watches.remove()
    return best
