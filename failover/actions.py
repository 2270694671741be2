"""What a node can do about a group, and how far it has come. Values only.

Knows: the actions of `decide` and what each leaves behind. Must not know why any of them is taken,
nor how it is performed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from failover.registry import Ownership

STEPS: Final = ("arm", "add addresses", "announce", "wake the gateway", "publish")


@dataclass(frozen=True, slots=True)
class Claim:
    """Compare-and-swap the ownership; the registry fences the older epoch before it returns."""

    group: str
    seen: Ownership


@dataclass(frozen=True, slots=True)
class Arm:
    """Let the packet path forward for `group` until `until_ns`."""

    group: str
    epoch: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class AddAddresses:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Announce:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class WakeGateway:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Publish:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class MakeOffer:
    """Tell everybody that `to` may claim the group from us; consent ends at `until_ns`."""

    group: str
    epoch: int
    to: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the offer back: we go on owning the group."""

    group: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """Its next owner serves it: remove the addresses, tell the gateway, leave the deadline."""

    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """Disarm, remove the addresses, tell the gateway."""

    group: str


Step = Arm | AddAddresses | Announce | WakeGateway | Publish
Action = Claim | Step | MakeOffer | Withdraw | LetGo | StepDown


@dataclass(frozen=True, slots=True)
class Held:
    """How far this node has performed one group: the epoch for which each step is done, or 0.

    `offered` is the epoch for which the group stands offered, to `offered_to`; `released` that
    of the next owner, once everything but the deadline was given up for it.
    `doubtful` is the state after a restart: an earlier life may have left something behind.
    """

    armed: int = 0
    armed_until_ns: int = 0
    addressed: int = 0
    announced: int = 0
    woken: int = 0
    published: int = 0
    doubtful: bool = False
    offered: int = 0
    offered_to: str = ""
    offered_until_ns: int = 0
    released: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.armed or self.addressed or self.announced or self.woken or self.doubtful)

    @property
    def serving(self) -> int:
        """The epoch for which media flows here, 0 when it does not."""
        same = self.armed == self.addressed == self.announced
        return self.armed if same and not self.released else 0


def done(held: Held, action: Action) -> Held:
    """What is held once `action` has been performed. The performer's only bookkeeping."""
    match action:
        case Arm(_, epoch, until_ns):
            return replace(held, armed=epoch, armed_until_ns=until_ns, released=0)
        case AddAddresses(_, epoch):
            return replace(held, addressed=epoch)
        case Announce(_, epoch):
            return replace(held, announced=epoch)
        case WakeGateway(_, epoch):
            return replace(held, woken=epoch)
        case Publish(_, epoch):
            return replace(held, published=epoch, doubtful=False)
        case MakeOffer(_, epoch, to, until_ns):
            return replace(held, offered=epoch, offered_to=to, offered_until_ns=until_ns)
        case Withdraw():
            return replace(held, offered=0, offered_to="", offered_until_ns=0)
        case LetGo(_, epoch):
            return replace(held, addressed=0, announced=0, woken=0, published=0, released=epoch)
        case StepDown():
            return Held()
        case Claim():
            return held
