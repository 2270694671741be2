"""A proxy that says what proxies say, and what they should not, to a real driver; after every step
what is open in the packet path is what `gateway_model` says, and nothing else, and ports of ended
calls rest.

The driver works on whatever packet path a test gives it; journals and records are in memory. At any
step the node may die: another driver takes over what is recorded.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bgf.events import Command, Event, Learned, MediaLine, Relatch, Reply, Verb
from bgf.hands import Outcome, Pinholes
from bgf.journal import Mode
from bgf.model import Address, FlowKey, Latch
from bgf.policy import RealmPolicy
from tests.fakes.gateway_model import GatewayModel, Open
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared
from tests.fakes.packet_lab import CALLEE4, CALLEE6, UE4, UE6, group

REALMS = ("access", "core")
HOSTS = ({4: UE4, 6: UE6}, {4: CALLEE4, 6: CALLEE6})
OTHERS = ({4: "10.10.0.77", 6: "fd00:a::77"}, {4: "10.20.0.77", 6: "fd00:c::77"})
HELD = {4: "0.0.0.0", 6: "::"}
NS_PER_S = 1_000_000_000
QUARANTINE_NS = 5 * NS_PER_S  # what `gateway.Limits` begins with
GROUP = msgspec.structs.replace(group(), ports=(30_000, 30_047))
POLICIES = {"access": RealmPolicy(Latch.LATCH)}
LATCHING = {"access": True, "core": False}
FLAGS = ((), (), ("strict-source",), ("asymmetric",), ("symmetric",), ("SIP-source-address",),
         ("SIP-source-address", "symmetric"), ("asymmetric", "strict-source"))  # fmt: skip
CALLS = ("c1", "c2", "c3")


def effort(examples: int, shrink: bool = True, steps: int = 30) -> settings:
    """How much is tried. Where a step is dear, a failing run is not made shorter."""
    return settings(
        phases=[phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)],
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Calls(RuleBasedStateMachine):
    """A proxy that says what proxies say, and what they should not."""

    def __init__(self) -> None:
        super().__init__()
        self.datapath = self.empty_datapath()
        self.now_ns = NS_PER_S
        self.shared = Shared()
        self.model = GatewayModel(REALMS, LATCHING)
        self.cookies = 0
        self.sent: list[Command] = []
        self.before: dict[FlowKey, Open | None] = {}
        self.resting: dict[int, int] = {}  # port -> since when

    def empty_datapath(self) -> Pinholes:
        """A packet path that holds nothing."""
        raise NotImplementedError

    def pinholes(self) -> dict[FlowKey, Open | None]:
        """Every pinhole of it; None where its gate is closed."""
        raise NotImplementedError

    @initialize(mode=st.sampled_from(Mode))
    def begin(self, mode: Mode) -> None:
        self.mode = mode
        self.node = self.make()

    def make(self) -> Node:
        return Node(
            self.shared, self.datapath, group=GROUP, mode=self.mode, policies=POLICIES,
            now_ns=self.now_ns,
        )  # fmt: skip

    # ---- what is said ---------------------------------------------------------------------------

    def say(self, command: Command, entropy: int = 0) -> Reply:
        replies = self.node.replies
        known = len(replies.sent)
        assert self.node.do(command, entropy) in (Outcome.ANSWERED, Outcome.REFUSED)
        assert len(replies.sent) == known + 1
        if all(one.cookie != command.cookie for one in self.sent):
            self.sent.append(command)
        note(f"{command} -> {replies.last.result} {replies.last.reason} {replies.last.media}")
        self.model.tell(command, replies.last)
        return replies.last

    def command(self, verb: Verb, call: str, **fields: Any) -> Command:
        self.now_ns += 20_000_000
        self.cookies += 1
        return Command(self.now_ns, f"k{self.cookies}", verb, call, **fields)

    def describe(
        self, data: st.DataObject, side: int, families: list[int | None]
    ) -> tuple[MediaLine, ...]:
        """One m-line for each family; None leaves it open."""
        made = []
        for index, family in enumerate(families):
            version = family or data.draw(st.sampled_from((4, 6)))
            hosts = data.draw(st.sampled_from((HOSTS, HOSTS, HOSTS, OTHERS)))
            host = hosts[side][version]
            if data.draw(st.integers(0, 9)) == 0:
                host = HELD[version]
            port = 0 if data.draw(st.integers(0, 7)) == 0 else 4_000 + 10 * index + 1_000 * side
            mux = data.draw(st.booleans())
            rtcp = Address(host, port + data.draw(st.sampled_from((1, 1, 5)))) if port else None
            if data.draw(st.integers(0, 7)) == 0:
                rtcp = None
            direction = data.draw(st.sampled_from(("sendrecv", "sendonly", "inactive")))
            made.append(MediaLine("audio", "RTP/AVP", Address(host, port), rtcp, mux, direction))
        return tuple(made)

    def tags(self, call: str, side: int) -> dict[str, str]:
        known = self.model.calls.get(call)
        tags = known.tags if known else ["a", ""]
        return {"from_tag": tags[side], "to_tag": tags[1 - side]}

    @rule(data=st.data(), call=st.sampled_from(CALLS), entropy=st.integers(0, 2**32))
    def offer(self, data: st.DataObject, call: str, entropy: int) -> None:
        """By either party where there are two; lines of an earlier offer stay, some more may come.
        An offer may follow an offer: the one before was refused by the far end."""
        known = self.model.calls.get(call)
        side = 0
        if known is not None and known.answered:
            side = data.draw(st.integers(0, 1))
        elif known is not None:
            side = known.offerer
        count = max(len(known.lines) if known else 0, data.draw(st.sampled_from((1, 1, 2, 3))))
        families: list[int | None] = [None] * count
        if known is not None:  # a new address is of the family that ours towards him has
            for index, line in enumerate(known.lines):
                own = line.ours[side]
                if own is not None and data.draw(st.integers(0, 3)):
                    families[index] = own.family
        flags = known.flags if known else data.draw(st.sampled_from(FLAGS))
        self.say(
            self.command(
                Verb.OFFER, call, **self.tags(call, side),
                media=self.describe(data, side, families),
                flags=flags,
                realms=REALMS if side == 0 else REALMS[::-1],
                family=data.draw(st.sampled_from((0, 0, 0, 0, 4, 6))),
            ),
            entropy,
        )  # fmt: skip

    @rule(data=st.data(), call=st.sampled_from(CALLS), fork=st.booleans())
    def answer(self, data: st.DataObject, call: str, fork: bool) -> None:
        """The answer to what was offered, or once more to what is in force (183, 200, a fork)."""
        known = self.model.calls.get(call)
        if known is None:
            self.say(
                self.command(Verb.ANSWER, call, from_tag="a", to_tag="b",
                             media=self.describe(data, 1, [None]))
            )  # fmt: skip
            return
        side = 1 - known.offerer
        families: list[int | None] = []
        for line in known.lines[: len(known.offered) or len(known.lines)]:
            towards = line.ours[side]
            families.append(towards.family if towards else None)
        tags = self.tags(call, known.offerer)
        if side == 1 and (fork or not tags["to_tag"]):
            tags["to_tag"] = data.draw(st.sampled_from(("b", "b2")))
        self.say(
            self.command(
                Verb.ANSWER, call, **tags, media=self.describe(data, side, families),
                flags=known.flags,
            )
        )  # fmt: skip

    @rule(data=st.data(), call=st.sampled_from(CALLS), entropy=st.integers(0, 2**32))
    def offer_and_answer(self, data: st.DataObject, call: str, entropy: int) -> None:
        """What most calls are made of: without it few walks would get beyond an offer."""
        self.offer(data, call, entropy)
        self.answer(data, call, False)

    @rule(data=st.data(), call=st.sampled_from(CALLS), fork=st.booleans())
    def answer_once_more(self, data: st.DataObject, call: str, fork: bool) -> None:
        known = self.model.calls.get(call)
        if known is not None and known.answered:
            self.answer(data, call, fork)

    @rule(data=st.data(), call=st.sampled_from(CALLS))
    def answer_with_too_many_lines(self, data: st.DataObject, call: str) -> None:
        known = self.model.calls.get(call)
        count = 1 + (len(known.offered) or len(known.lines) if known else 0)
        media = self.describe(data, 1, [None] * count)
        self.say(self.command(Verb.ANSWER, call, **self.tags(call, 0) | {"to_tag": "b"},
                              media=media))  # fmt: skip

    @rule(call=st.sampled_from(CALLS), rarely=st.integers(0, 3))
    def delete(self, call: str, rarely: int) -> None:
        """The whole call. A call that ends at once has no story."""
        if call in self.model.calls and rarely:
            return
        tags = self.tags(call, 0) | {"to_tag": ""}
        self.say(self.command(Verb.DELETE, call, **tags))

    @rule(data=st.data(), call=st.sampled_from(CALLS))
    def delete_a_branch_that_lost(self, data: st.DataObject, call: str) -> None:
        """By the tag of who has answered, but not last."""
        known = self.model.calls.get(call)
        others = sorted(known.others - {""}) if known else []
        if known is not None and others and known.offerer == 0:
            lost = data.draw(st.sampled_from(others))
            self.say(self.command(Verb.DELETE, call, from_tag=known.tags[0], to_tag=lost))
            known.others.discard(lost)

    @rule(call=st.sampled_from(CALLS), side=st.integers(0, 2), block=st.booleans())
    def block(self, call: str, side: int, block: bool) -> None:
        """What one party sends, or both."""
        tag = "" if side == 2 else self.tags(call, side)["from_tag"]
        verb = Verb.BLOCK_MEDIA if block else Verb.UNBLOCK_MEDIA
        self.say(self.command(verb, call, from_tag=tag))

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The same cookie again. A call's replies are kept for a minute."""
        recent = [one for one in self.sent if one.now_ns > self.now_ns - 50 * NS_PER_S][-12:]
        if recent:
            command = data.draw(st.sampled_from(recent))
            self.say(msgspec.structs.replace(command, now_ns=self.now_ns))

    # ---- what happens ---------------------------------------------------------------------------

    @rule(data=st.data(), call=st.sampled_from(CALLS))
    def learn(self, data: st.DataObject, call: str) -> None:
        """A sender is learned, or the operator wants that: no gate moves."""
        flows = self.node.gateway.expected_flows(call)
        if not flows:
            return
        flow = data.draw(st.sampled_from(flows))
        peer = Address("2001:db8::7" if flow.local_in.family == 6 else "203.0.113.7", 61_000)
        told: Event = Relatch(self.now_ns, call)
        if data.draw(st.booleans()):
            told = Learned(self.now_ns, call, flow.key, peer, flow.latch_round)
        assert self.node.do(told) is Outcome.ANSWERED

    @rule(seconds=st.sampled_from((1, 4, 6, 70, 250)))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * NS_PER_S
        self.model.tick(self.now_ns)
        for _ in range(2):
            self.node.driver.tick(self.now_ns)

    @rule(at_once=st.booleans())
    def die(self, at_once: bool) -> None:
        """Another process on this node, with the same packet path, or one on another node, which
        has followed the records."""
        if not at_once:
            self.datapath.remove(self.datapath.keys())
            self.datapath.install(list(self.shared.flows.values()))
        self.node = self.make()
        self.node.restore_all(self.now_ns)

    # ---- what must be so ------------------------------------------------------------------------

    @invariant()
    def the_map_is_what_the_model_says(self) -> None:
        now, must = self.pinholes(), self.model.open()
        found = {one for one in now.values() if one is not None}
        assert not found - must, "open, and must not be"
        assert not must - found, "must be open, and is not"
        calls = {flow.key for call in self.node.gateway.sessions
                 for flow in self.node.gateway.expected_flows(call)}  # fmt: skip
        assert now.keys() == calls

    @invariant()
    def ports_of_ended_calls_rest(self) -> None:
        ports = {key.port & ~1 for key in self.pinholes()}
        for port in ports - {key.port & ~1 for key in self.before}:
            since = self.resting.pop(port, None)
            assert since is None or self.now_ns >= since + QUARANTINE_NS, f"{port} had no rest"
        for key in self.before:
            if key.port & ~1 not in ports:
                self.resting[key.port & ~1] = self.now_ns
        self.before = self.pinholes()
