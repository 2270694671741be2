"""A group, and the commands of callers: plain ones by hand, wild ones from a random source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from hypothesis import HealthCheck, settings

from bgf.events import (
    Abandoned,
    Command,
    Event,
    Expired,
    Learned,
    MediaLine,
    Nominated,
    Relatch,
    Seen,
    Silent,
    Verb,
)
from bgf.model import Address, Flow, Group, Latch, Policer, RealmAddress
from bgf.policy import ANY, RealmPolicy, RtpCheck, StreamRule

# A busy machine is no failure: property tests are never judged by their speed.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

GROUP = Group(
    id="g1",
    control=Address("10.30.0.101", 2223),
    control_realm="mgmt",
    control_prefix_len=24,
    ports=(30000, 30199),
    addresses=(
        RealmAddress("access", "fd00:a::101", 64),
        RealmAddress("access", "10.10.0.101", 24),
        RealmAddress("core", "10.20.0.101", 24),
    ),
)
REALMS = ("access", "core")
POLICIES = {
    "access": RealmPolicy(
        Latch.LATCH,
        RtpCheck.PAYLOAD_TYPES,
        1_000,
        {"audio": StreamRule(Policer(16_000, 3_000), 46), ANY: StreamRule(dscp=34)},
    ),
}
HOSTS = ("fd00:a::2", "10.10.0.2", "10.20.0.2", "10.20.0.3")


def line(
    host: str,
    port: int,
    *,
    mux: bool = False,
    kind: str = "audio",
    direction: str = "sendrecv",
    rtcp: bool = True,
    ice: str = "",
) -> MediaLine:
    """An m-line with RTCP on the next port; port 0 rejects it."""
    follows = Address(host, port + 1) if rtcp and port else None
    at = Address(host, port)
    return MediaLine(kind, "RTP/AVP", at, follows, mux, direction, ice_ufrag=ice if port else "")


def command(
    verb: Verb,
    cookie: str,
    *media: MediaLine,
    call: str = "call-1",
    at_ms: int = 0,
    **fields: object,
) -> Command:
    base: dict[str, object] = {"from_tag": "alice", "media": media}
    if verb is Verb.ANSWER:
        base["to_tag"] = "bob"
    return Command(
        now_ns=NS_PER_S + at_ms * NS_PER_MS,
        cookie=cookie,
        verb=verb,
        call_id=call,
        **(base | fields),  # type: ignore[arg-type]
    )


class Callers:
    """An endless stream of events, sensible more often than not, on a handful of calls.

    With `flows`, which gives a call's pinholes, the packet path has its say too.
    """

    def __init__(
        self,
        rng: Random,
        calls: int = 4,
        flows: Callable[[str], Sequence[Flow]] | None = None,
    ) -> None:
        self._rng = rng
        self._flows = flows
        self._calls = [f"call-{number}" for number in range(calls)]
        self._cookies: list[Command] = []
        self.now_ns = NS_PER_S

    def _line(self, host: str) -> MediaLine:
        rng = self._rng
        port = 0 if rng.random() < 0.15 else 2 * rng.randrange(2000, 5000)
        if rng.random() < 0.1:
            host = "0.0.0.0" if ":" not in host else "::"
            port = rng.choice((port, 9))
        return line(
            host,
            port,
            mux=rng.random() < 0.3,
            direction=rng.choice(("sendrecv", "sendonly", "inactive")),
            rtcp=rng.random() < 0.9,
            ice=rng.choice(("", "", "abcd", "efgh")),
        )

    def seen(self, call: str, flows: Sequence[Flow]) -> Seen:
        """What the packet path, or an operator, may have to say of a call with these pinholes."""
        rng = self._rng
        flow = rng.choice(flows)
        kind = rng.random()
        if kind < 0.7:
            latch_round = max(0, flow.latch_round + rng.choice((0, 0, 0, 0, -1, 1)))
            host = rng.choice(("203.0.113.7", "2001:db8::7"))
            peer = Address(host, 1024 + rng.randrange(4))
            return Learned(self.now_ns, call, flow.key, peer, latch_round)
        if kind < 0.75:
            peer = Address(flow.remote.host, 9_000) if flow.remote else Address("::7", 9_000)
            return Nominated(self.now_ns, call, flow.key, peer)
        if kind < 0.85:
            return Relatch(self.now_ns, call)
        if kind < 0.95:
            return Silent(self.now_ns, call, flow.key, rng.choice((0, self.now_ns)))
        return Abandoned(self.now_ns, call, 90_000)

    def next(self) -> Event:
        rng = self._rng
        self.now_ns += rng.choice((1, 5, 50, 2_000, 30_000, 130_000)) * NS_PER_MS
        call = rng.choice(self._calls)
        flows = self._flows(call) if self._flows is not None and rng.random() < 0.4 else ()
        if flows:
            return self.seen(call, flows)
        if rng.random() < 0.1:
            return Expired(self.now_ns, call)
        if self._cookies and rng.random() < 0.1:
            return rng.choice(self._cookies)
        verb = rng.choice((Verb.OFFER, Verb.OFFER, Verb.ANSWER, Verb.ANSWER, Verb.DELETE))
        swapped = rng.random() < 0.3
        tags = ("bob", "alice") if swapped else ("alice", "bob")
        from_access = swapped is (verb is Verb.ANSWER)
        host = rng.choice(HOSTS[:2] if from_access else HOSTS[2:])
        realms = REALMS[::-1] if swapped else REALMS
        if rng.random() < 0.1:
            host, realms = rng.choice(HOSTS), ("nowhere", "core")
        media = tuple(self._line(host) for _ in range(rng.choice((1, 1, 1, 1, 2, 3))))
        made = Command(
            now_ns=self.now_ns,
            cookie=f"c{len(self._cookies)}",
            verb=verb,
            call_id=call,
            from_tag=tags[0],
            to_tag=rng.choice((tags[1], tags[1], "", "carol")),
            media=() if verb is Verb.DELETE else media,
            flags=rng.choice(
                (
                    *((), (), ("strict-source",), ("asymmetric", "unheard-of"), ("fatal",)),
                    *(("symmetric",), ("TOS=184", "SIP-source-address")),
                    *(("ICE=force", "rtcp-mux=demux"), ("ICE=remove", "rtcp-mux=require")),
                    *(("rtcp-mux=offer", "rtcp-mux=reject"), ("rtcp-mux=accept", "reject-ICE")),
                )
            ),
            realms=() if rng.random() < 0.4 else realms,
            family=rng.choice((0, 0, 0, 0, 0, 4, 6)),
        )
        self._cookies.append(made)
        return made
