"""`bgf gateway`: answers `ng` for the groups this node owns, keeps everybody's pinholes hot.

Wires the machine of each group to sockets, store and packet path. Which group is whose, the
registry says: roles are read often, and before any command is taken from a stranger. A group that
has become ours is answered for when its fence is raised everywhere; commands wait till then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import Counter, deque
from typing import Any

import statestore
from bgf.admin import AdminServer
from bgf.config import NodeConfig, peers_of
from bgf.control import ng
from bgf.control.access import Access
from bgf.control.newcalls import NewCalls
from bgf.control.server import Handler, Incoming, NgServer, Ports
from bgf.errors import BgfError, DatapathError, EnvironmentProblem
from bgf.events import DropFlow, PutFlow, Reply, Result, Verb
from bgf.gateway import ENTROPY_BITS, Gateway, Limits
from bgf.hands import ActiveHands, Driver, Outcome, StandbyHands
from bgf.journal import Mode, Recorder
from bgf.media.xdp import XdpDatapath
from bgf.model import Group
from bgf.runtime.captures import Captures
from bgf.runtime.catching_up import catch_up
from bgf.runtime.checks import IceAgent
from bgf.runtime.cluster import open_store, views_of
from bgf.runtime.copying import Copying
from bgf.runtime.feed import Changes, FlowFeed
from bgf.runtime.gateway_admin import GatewayAdmin
from bgf.runtime.load import Load
from bgf.runtime.measures import Measures
from bgf.runtime.process import (
    call_ns,
    every,
    few_collections,
    now_ns,
    retrying,
    until_signalled,
    wake_socket,
)
from bgf.runtime.readiness import LACKS_MAX, Readiness, ReadyMark
from bgf.runtime.reconcile import Found, reconcile
from bgf.runtime.recorded import RecordedFlows
from bgf.runtime.registry_adapters import StoreRegistry
from bgf.runtime.reports import LogNotices, MediaReports
from bgf.runtime.restoring import RESTORE_RETRY_MS, restore_in_background
from bgf.runtime.room import lacks
from bgf.runtime.served import Served
from bgf.runtime.shared_capture import SharedCapture
from bgf.runtime.store_adapters import EMBEDDED, EVERYWHERE, Copies, StoreFlows, StoreJournal
from bgf.runtime.takeover import Prepared, Takeover
from failover.registry import Ownership, RegistryUnavailable
from statestore.errors import StateStoreError

log = logging.getLogger("bgf.gateway")

POLL_MS, POLL_SOON_MS = 20, 5
"""Looks at the feed, at who owns what, at what media did; while the feed has more."""
FEED_STALE_MS, UNSERVED_MS = 1_000, 1_000
TIMER_MS, READY_MS, NEIGHBOURS_MS, LOOK_MS = 250, 200, 2_000, 1_000
SERVING_WAIT_S = 60.0
RESTS_MAX = 65_536
"""Released ports remembered per group that is served elsewhere."""


class GatewayProcess:
    """The composition of one node's gateway process."""

    def __init__(
        self,
        node: NodeConfig,
        store: statestore.Store,
        datapath: XdpDatapath,
        registry: StoreRegistry,
    ) -> None:
        self.node = node
        self.store = store
        self.datapath = datapath
        self.registry = registry
        cluster = node.state.cluster
        self.journal_copies = Copies(cluster.replicas, sync=True) if cluster else EMBEDDED
        self.flow_copies = Copies(EVERYWHERE, sync=True) if cluster else EMBEDDED
        self.takeover = Takeover(lambda: open_store(node), self.journal_copies)
        self.readiness = Readiness(node.node.run_dir)
        self.feed = FlowFeed(store)
        self.standby = StandbyHands(datapath)
        self.served = {group.id: Served(group) for group in node.groups}
        limits = node.media.close_hanging_s, node.media.close_held_s
        self.reports = MediaReports(datapath, self.served, *limits)
        self.recorded = RecordedFlows(self.feed, self.served)
        self.ice = IceAgent(datapath.checks, self.served, self.recorded.at)
        self.shared_capture = SharedCapture(datapath)
        self.captures = Captures(self.shared_capture)
        recorder_realm = node.realms.get(node.recording.recorder_realm)
        self.copying = Copying(
            self.shared_capture,
            self.served,
            node.recording,
            recorder_realm.interface if recorder_realm is not None else "",
        )
        self.measures = Measures(datapath, self.served, self._elsewhere)
        self.found = Found()
        self.partial: set[str] = set()  # groups not all of whose items are known here yet
        self.load = Load(node.control.memory_max_mb)
        self.limits = Limits(
            sessions_max=node.control.sessions_max,
            quarantine_ms=node.media.port_quarantine_ms,
            new_calls_per_s=node.control.new_calls_per_s,
        )
        self.rests: dict[str, deque[tuple[int, int]]] = {
            group: deque(maxlen=RESTS_MAX) for group in self.served
        }
        self.tally: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self.followed_ns = 0
        self.behind = False
        self.unserved_ns = 0

    # -- start and stop --------------------------------------------------------------------

    def open(self) -> None:
        """Read the state, make the packet path agree with it, bind the control sockets."""
        self.feed.load()
        flows = list(self.feed.everything())
        self.partial = self.feed.unread() & self.served.keys()
        unknown = {
            address.host for group in self.partial for address in self.served[group].group.addresses
        }
        self.found = reconcile(self.datapath, flows, self._apply, unknown)
        log.info("reconciled: %s", self.found.line)
        for served in self.served.values():
            served.server = self._server(served)
            served.server.start()

    def _server(self, served: Served) -> NgServer:
        control, group = self.node.control, served.group
        peers = peers_of(control, group)
        if peers is None:
            log.warning(
                "group %s: anybody who reaches %s may command: say in control.peers who may",
                group.id, group.control,
            )  # fmt: skip

        def known(call_id: str) -> bool:
            return served.driver is None or served.driver.knows(call_id)

        listen = control.listen
        return NgServer(
            group.control,
            self._handler(served),
            Ports(listen.udp, listen.tcp or None, listen.http or None),
            Access(peers, control.rate_per_peer),
            NewCalls(known, self.load.overload, control.lag_max_ms),
        )

    def sentence(self) -> str:
        """How it goes, for systemd."""
        active = [group for group, served in self.served.items() if served.driver is not None]
        said = f"active for {', '.join(active) or 'no group'}, {self.datapath.installed} pinholes"
        return said if self.ready else f"does not follow the change feed; {said}"

    def close(self) -> None:
        """Sockets close; programs, maps and links stay: media goes on."""
        for served in self.served.values():
            if served.takeover is not None:
                served.takeover.cancel()
            if served.server is not None:
                served.server.close()
        self.takeover.close()
        self.copying.follow()
        self.copying.close()
        self.captures.close()
        self.shared_capture.close()

    # -- roles -----------------------------------------------------------------------------

    def refresh_roles(self) -> None:
        """Become what the registry says. Cheap when nothing has changed.

        While the registry cannot be asked, everybody stays what he is: fences decide.
        """
        try:
            owners = self.registry.view().owners
        except RegistryUnavailable:
            return
        useless = self._useless()
        for served in self.served.values():
            owner = owners.get(served.group.id, Ownership())
            mine = served.owned_by(owner.node, self.node.node.id) and not useless
            driver, over = served.driver, not mine or owner.epoch != served.epoch
            if driver is not None and (over or driver.fenced or driver.doubtful):
                self._stand_by(served, owner)
            elif served.takeover is not None and over:
                served.takeover.cancel()
                self._end_takeover(served)
            begun = served.driver is not None or served.takeover is not None
            if mine and not begun and owner.epoch != served.lost_epoch:
                served.epoch = owner.epoch
                served.takeover = asyncio.create_task(self._take_over(served, owner.epoch))

    def _useless(self) -> bool:
        """Has the state plane not served here for long? Then nothing can be promised, and who owns
        what may have changed unseen."""
        if self.store.serving:
            self.unserved_ns = 0
            return False
        self.unserved_ns = self.unserved_ns or now_ns()
        return now_ns() - self.unserved_ns > UNSERVED_MS * 1_000_000

    async def _take_over(self, served: Served, epoch: int) -> None:
        """Raise the fence, wait until the state can be written, become active, answer who waits."""
        began_ns, group = now_ns(), served.group
        try:
            while True:
                prepared = await self.takeover.prepare(group.id, epoch)
                if prepared is None:
                    log.warning(
                        "group %s: epoch %d is over already", group.id, epoch,
                        extra=_about(group.id, epoch, "over"),
                    )  # fmt: skip
                    served.lost_epoch = epoch
                    return
                try:
                    await catch_up(self, group.id, epoch)
                    self._activate(served, epoch, began_ns, prepared)
                    break
                except (BgfError, StateStoreError) as error:
                    log.warning(
                        "group %s epoch %d: tried again: %s", group.id, epoch, error,
                        extra=_about(group.id, epoch, "tried-again"),
                    )  # fmt: skip
                    await asyncio.sleep(RESTORE_RETRY_MS / 1000)
        except Exception:
            log.exception("group %s epoch %d: the takeover is begun anew", group.id, epoch)
            await asyncio.sleep(RESTORE_RETRY_MS / 1000)
            return
        finally:
            if served.takeover is asyncio.current_task():
                served.takeover = None
                if served.driver is None:
                    self._end_takeover(served)
        if served.server is not None:
            for incoming in served.unpark():
                served.server.take_up(incoming)

    def _end_takeover(self, served: Served) -> None:
        served.takeover, served.epoch = None, 0
        served.outcomes["not-owner"] += len(served.unpark())
        if served.server is not None:
            served.server.hang_up()

    def _activate(self, served: Served, epoch: int, began_ns: int, prepared: Prepared) -> None:
        """Raises StateError, or what the store raises: then nothing has changed."""
        group, woken_ns = served.group, now_ns()
        self.apply_feed(self.feed.drain())
        grant = self.store.grant(group.id, epoch)
        hands = ActiveHands(
            StoreJournal(self.store, group.id, grant, self.journal_copies),
            StoreFlows(self.store, group.id, grant, self.flow_copies),
            self.datapath,
            _Replier(self, served),
            LogNotices(group.id, served.outcomes),
        )
        recorder = Recorder(Mode(self.node.control.journal))
        found = self.feed.found(group.id, prepared.marked)
        realms, policies = self.node.control.default_realms, self.node.policies
        machine = Gateway(group, realms, self.limits, policies)
        driver = Driver(machine, recorder, hands, self.reports.heard_ms_ago)
        driver.take_over(found, call_ns(), self.rests[group.id], prepared.marked)
        self.feed.hush(group.id)
        found.keep()
        self.partial.discard(group.id)
        served.driver, served.began_ns = driver, began_ns
        served.ready_in_ms = (now_ns() - began_ns) / 1e6
        log.info(
            "group %s epoch %d: active here, %d port pairs in use, ready after %.1f ms (%s, %.1f)",
            group.id, epoch, driver.gateway.usage().pairs_used, served.ready_in_ms, prepared,
            (now_ns() - woken_ns) / 1e6,
            extra=_about(group.id, epoch, "active"),
        )  # fmt: skip
        restore_in_background(served, driver, began_ns, self.tasks)

    def _stand_by(self, served: Served, owner: Ownership) -> None:
        if served.driver is not None and served.driver.doubtful:
            log.warning(
                "group %s epoch %d: %s; reads its state anew",
                served.group.id, served.epoch, *served.driver.failures[-1:],
                extra=_about(served.group.id, served.epoch, "in-doubt"),
            )  # fmt: skip
        elif self.unserved_ns:
            log.warning(
                "group %s: no longer active here at epoch %d: this node's state server does not"
                " serve", served.group.id, served.epoch,
                extra=_about(served.group.id, served.epoch, "state-not-serving"),
            )  # fmt: skip
        else:
            log.warning(
                "group %s: no longer active here at epoch %d; %s owns it at epoch %d",
                served.group.id, served.epoch, owner.node or "nobody", owner.epoch,
                extra=_about(served.group.id, served.epoch, "owned-elsewhere"),
            )  # fmt: skip
        served.driver, served.epoch, served.pending = None, 0, 0
        if served.server is not None:
            served.server.hang_up()
        if owner.node != self.node.node.id:
            self.reports.discard(served.group.id)
            self.ice.discard(served.group.id)
        # What the new owner wrote before this node noticed was passed over as our own.
        self.feed.hear(served.group.id)
        if self.unserved_ns:
            self.behind = True  # what the segment holds now need not be what is so: later
            return
        self.apply_feed(self.feed.load())
        self._agree_with_state(served.group)

    def _agree_with_state(self, group: Group) -> None:
        """Make the packet path hold exactly the recorded pinholes of one group. While some of what
        is recorded is not known here, none is closed."""
        flows = self.feed.flows(group.id)
        hosts = {address.host for address in group.addresses}
        self._apply([PutFlow(flow) for flow in flows.values()])
        if group.id in self.feed.unread():
            self.partial.add(group.id)
            return
        self.datapath.remove(
            [key for key in self.datapath.keys() if key.host in hosts and key not in flows]  # noqa: SIM118
        )

    # -- the feed --------------------------------------------------------------------------

    def follow(self) -> None:
        """Take in what other nodes recorded. While this host's member does not serve, what is known
        stands: it may be joining anew, with nothing in its segment yet."""
        if not self.store.serving:
            self.behind = True
            return
        if self.behind:
            self.behind = False
            self.apply_feed(self.feed.load())
            for served in self.served.values():
                if served.driver is None:
                    self._agree_with_state(served.group)
        self.apply_feed(self.feed.poll())
        for group in self.partial - self.feed.unread():
            self.partial.discard(group)
            if not self._is_active(group):
                self._agree_with_state(self.served[group].group)
        if not self.feed.missing:
            self.followed_ns = now_ns()

    def pause_ms(self) -> float:
        """Until the next look."""
        return POLL_SOON_MS if self.behind or self.feed.waits else POLL_MS

    @property
    def ready(self) -> bool:
        """Could this node take a group over: does it still follow the feed?"""
        return now_ns() - self.followed_ns < FEED_STALE_MS * 1_000_000

    def apply_feed(self, changes: Changes) -> None:
        """Into the packet path, of the groups that are not served here."""
        foreign = [change for change in changes if not self._is_active(_group_of(change))]
        for change in foreign:
            if isinstance(change, DropFlow) and change.group in self.rests:
                # Should the group become ours, this port is not to be had yet: another node's
                # call may still be sent to it.
                self.rests[change.group].append((change.key.port, call_ns()))
        self._apply(foreign)

    def _apply(self, changes: Changes) -> None:
        """Into the packet path; what it refuses is said and counted, and keeps nothing else out."""
        if not changes:
            return
        try:
            self.standby.perform(changes)
        except DatapathError as error:
            if len(changes) > 1:
                for change in changes:
                    self._apply([change])
                return
            self.tally["refused"] += 1
            log.error("%s", error)

    def _is_active(self, group: str) -> bool:
        served = self.served.get(group)
        return served is not None and served.driver is not None

    def publish_ready(self) -> None:
        """Silence says "not ready": the failover process counts the last word's age."""
        if not self.ready:
            return
        sessions = sum(
            s.driver.gateway.usage().sessions for s in self.served.values() if s.driver is not None
        )
        mark = ReadyMark(
            now_ns(),
            self.datapath.installed,
            sessions,
            self.recorded.count(),
            self.tally["refused"],
            tuple(lacks(self)[:LACKS_MAX]),
        )
        self.readiness.publish(mark)

    # -- control ---------------------------------------------------------------------------

    def _handler(self, served: Served) -> Handler:
        def handle(incoming: Incoming) -> bytes | None:
            if served.driver is None:
                self.refresh_roles()  # the address may have come a moment before the poll
            if served.driver is None:
                if served.takeover is None:
                    served.outcomes["not-owner"] += 1
                    if self._useless():
                        served.refuse_unserved(now_ns() - self.unserved_ns)
                else:
                    served.park(incoming)
                return None
            return self._answer(served, served.driver, incoming)

        return handle

    def _answer(self, served: Served, driver: Driver, incoming: Incoming) -> bytes | None:
        """Raises PeerError."""
        request = self.copying.admit(driver.gateway, incoming.request)
        if request is not incoming.request:
            incoming = incoming._replace(request=request)
        answer: list[bytes] = []
        served.asked = (incoming, answer)
        self.measures.before(driver.gateway, request)
        copied = driver.gateway.copied_version
        try:
            command = request.command(call_ns(), int(time.time()), self.measures.carried)
            draws = request.verb is Verb.OFFER or request.verb is Verb.ANSWER
            outcome = driver.handle(command, secrets.randbits(ENTROPY_BITS) if draws else 0)
        finally:
            served.asked = None
        if driver.gateway.copied_version != copied:
            self.copying.follow()  # before the reply: what it lets begin is copied from its start
        served.outcomes[outcome.value] += 1
        if outcome in (Outcome.FENCED, Outcome.FAILED):
            log.error("group %s: %s", served.group.id, driver.failures[-1:])
        return answer[0] if answer else None

    def _elsewhere(self) -> int:
        """Calls of groups that other nodes serve, by their pinholes here."""
        return sum(
            self.feed.calls(served.group.id)
            for served in self.served.values()
            if served.driver is None
        )

    def timers(self) -> None:
        self.load.measure()
        for served in self.served.values():
            if served.driver is not None:
                served.driver.tick(call_ns())

    # -- what the packet path says ---------------------------------------------------------

    def readable(self) -> None:
        """Netlink, or a peer learned: taken in at once, handed on with the next `deliver`."""
        self.datapath.process()
        self.reports.take()
        self.reports.deliver()

    def look(self) -> None:
        """Media that fell silent, calls that hang, captures that nobody fetches, ports leaked."""
        self.reports.take()
        self.reports.deliver()
        self.reports.look()
        self.captures.expire()
        for served in self.served.values():
            if served.driver is not None:
                served.driver.audit(call_ns())


class _Replier:
    """Renders the machine's reply for whoever is being served at this moment."""

    def __init__(self, process: GatewayProcess, served: Served) -> None:
        self._process = process
        self._served = served

    def reply(self, cookie: str, reply: Reply) -> None:
        if self._served.asked is None:
            return
        incoming, answer = self._served.asked
        if incoming.request.cookie != cookie:
            return
        server = self._served.server
        if reply.result is Result.LOAD_LIMIT and server is not None:
            server.counts[f"shed-{reply.reason.partition(':')[0]}"] += 1
        measures, request = self._process.measures, incoming.request
        reply, measured = measures.of(request, reply)
        answer.append(ng.render(request, reply, measured))
        measures.after(request, incoming.host, reply)


def _about(group: str, epoch: int, reason: str) -> dict[str, object]:
    """Fields of a line in the journal."""
    return {"group": group, "epoch": epoch, "reason": reason}


def _group_of(change: Any) -> str:
    return str(change.flow.group if hasattr(change, "flow") else change.group)


async def run(node: NodeConfig) -> None:
    """The process, until it is told to stop."""
    store = await retrying(
        "the state segment (is `bgf state` running?)",
        lambda: open_store(node),
        (StateStoreError, OSError),
    )
    datapath = XdpDatapath(
        node.media.pin_dir,
        {realm.name: realm.interface for realm in node.attached_realms},
        node.groups,
        discriminator=node.node.discriminator,
        pinholes_max=node.media.pinholes_max,
        attach=node.media.attach,
    )
    await _until_serving(node, store)
    views, close_registry = views_of(node, store, members=False)
    process = GatewayProcess(node, store, datapath, views)
    loop = asyncio.get_running_loop()
    wake_path = wake_socket(node.node.run_dir)
    wake_path.unlink(missing_ok=True)
    wake = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        process.open()
        wake.bind(str(wake_path))
        loop.add_reader(wake, _woken, wake, process)
        loop.add_reader(datapath.fileno(), process.readable)
        loop.add_reader(datapath.checks.fileno(), process.ice.take)
        async with AdminServer(node.node.socket("gateway"), GatewayAdmin(process).handlers):
            process.follow()
            process.refresh_roles()
            process.publish_ready()
            few_collections()
            told, ice = process.reports.deliver, process.ice.deliver
            looks = (process.follow, process.refresh_roles, told, ice, process.copying.follow)
            log.info("ready: XDP %s", {n: a.mode for n, a in datapath.attachments.items()})
            await until_signalled(
                [
                    asyncio.create_task(every(process.pause_ms, *looks)),
                    asyncio.create_task(every(TIMER_MS, process.timers)),
                    asyncio.create_task(every(READY_MS, process.publish_ready)),
                    asyncio.create_task(every(NEIGHBOURS_MS, datapath.refresh)),
                    asyncio.create_task(every(LOOK_MS, process.look)),
                ],
                process.sentence,
            )
    finally:
        loop.remove_reader(wake)
        loop.remove_reader(datapath.fileno())
        loop.remove_reader(datapath.checks.fileno())
        wake.close()
        wake_path.unlink(missing_ok=True)
        process.close()
        datapath.close()
        close_registry()
        store.close()


async def _until_serving(node: NodeConfig, store: statestore.Store) -> None:
    """What an incomplete member knows would be taken for all there is. Raises
    EnvironmentProblem."""
    deadline_ns = now_ns() + int(SERVING_WAIT_S * 1e9)
    while not store.serving:
        if now_ns() > deadline_ns:
            raise EnvironmentProblem(
                f"the state server of {node.node.id} does not serve after {SERVING_WAIT_S:g} s: "
                "see its log, and `bgfctl state status`"
            )
        await asyncio.sleep(READY_MS / 1000)


def _woken(wake: socket.socket, process: GatewayProcess) -> None:
    try:
        while wake.recv(64):
            pass
    except BlockingIOError:
        pass
    process.refresh_roles()
