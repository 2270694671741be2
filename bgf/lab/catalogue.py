"""The faults that every build survives, as data: who is struck, with what, for how long, and what
is expected then. No I/O; `faults` can do what stands here, `trial` does it.

Roles are resolved when a trial begins, since groups move: `active` owns the group that is watched,
`other` owns another one, `standby` owns none, `leader` and `member` are etcd's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from bgf.errors import ConfigError


class Role(enum.StrEnum):
    ACTIVE = "active"
    OTHER = "other"
    STANDBY = "standby"
    LEADER = "leader"
    MEMBER = "member"
    ALL = "all"
    """Every member of etcd."""


class Verb(enum.StrEnum):
    POWER_OFF = "power off"
    KILL = "kill"
    STOP = "stop"
    LINK_DOWN = "link down"
    LOSE = "lose"
    """`number` percent of the packets, both ways."""
    DEAFEN = "deafen"
    """Nothing gets to it."""
    MUTE = "mute"
    """Nothing comes from it."""
    ISOLATE = "isolate"
    """Neither, on every network at once, with its cables in."""
    STARVE = "starve"
    """`number` percent of one processor for all of its processes together."""
    FAKE_CLOCK = "fake clock"
    """Its processes start again with a wall clock of their own."""
    SET_CLOCK = "set clock"
    """That clock jumps by `number` seconds."""
    HALT_AT = "halt at"
    """Its process will stand still when it says a word: a step of a takeover."""
    AWAIT_HALT = "await halt"
    GO_ON = "go on"
    KILL_ETCD = "kill etcd"
    STOP_ETCD = "stop etcd"
    START_ETCD = "start etcd"
    """What was killed or stopped of it goes on."""
    FAKE_DISK = "fake disk"
    """Members of etcd start again on disks that can be slow."""
    SLOW_DISK = "slow disk"
    """Each flush to such a disk takes `number` ms."""
    WAIT = "wait"
    """`number` ms go by."""
    TAKE = "take"
    """The watched group moves there by plan."""
    RESTART = "restart"
    """One node after the other: drained, its processes started again, undrained."""


class Moves(enum.StrEnum):
    """Is the watched group to change its owner before anything is repaired?"""

    MUST = "must"
    MAY = "may"
    NEVER = "never"


PROCESSES: Final = ("state", "gateway", "failover")
NETWORKS: Final = ("access", "core", "mgmt")
RESTART_MS: Final = 1_000  # as a service manager would: RestartSec
STEPS: Final = ("detected", "decided", "armed", "addressed", "announced", "woken", "published")
"""What a failover process says in the course of a takeover, in this order."""
WHOLE_MS: Final = 45_000
"""The cluster is whole again so long after the last repair."""
SLOW_DISK_MS: Final = 40
"""Four of the lab's etcd's heartbeats; beyond its election timeout it has no leader at all."""
TAKEOVERS_WAIT: Final = "takeovers wait"


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing that is done to one node or member: to its process or network `what`."""

    verb: Verb
    role: Role
    what: str = ""
    number: float = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """`prepare` is done in peace, `blows` at time zero, in order. What can be undone is undone
    after `lasts_ms`, or, when that is 0, when media is back (a dead process is started again, a
    dead machine switched on). `held`: no packet of a call is to be lost.
    """

    name: str
    text: str
    blows: tuple[Blow, ...]
    lasts_ms: int = 0
    prepare: tuple[Blow, ...] = ()
    moves: Moves = Moves.MAY
    held: bool = False
    whole_ms: int = WHOLE_MS
    short: bool = False
    """It is in the short form."""
    previous: bool = False
    """Every node runs an earlier version when it begins: a lab of its own, and none without one."""
    said: str = ""
    """Words that a failover process must have logged meanwhile: trouble is told, not only borne."""


def _power() -> list[Fault]:
    off = Verb.POWER_OFF
    active, standby, other = (Blow(off, r) for r in (Role.ACTIVE, Role.STANDBY, Role.OTHER))
    return [
        Fault("power-off-active", "an active loses power", (active,), moves=Moves.MUST, short=True),
        Fault(
            "power-off-standby", "the standby loses power", (standby,), 2_000,
            moves=Moves.NEVER, held=True,
        ),
        Fault(
            "power-off-two-actives", "two actives at once: one standby takes both",
            (active, other), moves=Moves.MUST,
        ),
        Fault(
            "power-off-active-and-standby", "an active and the standby at once",
            (active, standby), moves=Moves.MUST,
        ),
    ]  # fmt: skip


def _processes() -> list[Fault]:
    found = []
    for process in PROCESSES:
        for role in (Role.ACTIVE, Role.STANDBY):
            # Media needs no process; but nobody else renews the lease.
            quiet = role is Role.STANDBY or process != "failover"
            found.append(
                Fault(
                    f"kill-{process}-{role}",
                    f"kill -9 of the {process} process of the {role} node",
                    (Blow(Verb.KILL, role, process),),
                    RESTART_MS,
                    moves=Moves.NEVER if quiet else Moves.MAY,
                    held=quiet,
                    short=(process, role) == ("gateway", Role.ACTIVE),
                )
            )
            for pause_ms in (200, 2_000, 10_000):
                # A lease of the profile `fast` lasts 1.5 s.
                still = quiet or pause_ms < 1_000
                name = f"{pause_ms / 1000:g}s"
                found.append(
                    Fault(
                        f"stop-{process}-{role}-{name}",
                        f"the {process} process of the {role} node stands still for {name}",
                        (Blow(Verb.STOP, role, process),),
                        pause_ms,
                        moves=Moves.NEVER if still else Moves.MAY,
                        held=still,
                        short=(process, role, pause_ms) == ("failover", Role.ACTIVE, 10_000),
                    )
                )
    return found


def _networks() -> list[Fault]:
    found = []
    for network in NETWORKS:
        for role in (Role.ACTIVE, Role.STANDBY):
            active = role is Role.ACTIVE
            found.append(
                Fault(
                    f"link-down-{network}-{role}",
                    f"the {role} node's link to {network} goes down",
                    (Blow(Verb.LINK_DOWN, role, network),),
                    3_000,
                    moves=Moves.MUST if active else Moves.NEVER,
                    held=not active,
                )
            )
            found.append(
                Fault(
                    f"loss-{network}-{role}",
                    f"30 % of the packets between the {role} node and {network} are lost",
                    (Blow(Verb.LOSE, role, network, 30),),
                    5_000,
                    moves=Moves.MAY,
                    held=not active,
                )
            )
        for verb, direction in ((Verb.DEAFEN, "to"), (Verb.MUTE, "from")):
            found.append(
                Fault(
                    f"one-way-{direction}-active-{network}",
                    f"nothing gets through {direction} the active node on {network}",
                    (Blow(verb, Role.ACTIVE, network),),
                    4_000,
                    # A renewal needs both ways to etcd.
                    moves=Moves.MUST,
                    short=(verb, network) == (Verb.MUTE, "mgmt"),
                )
            )
    cut = (Blow(Verb.DEAFEN, Role.ACTIVE, "mgmt"), Blow(Verb.MUTE, Role.ACTIVE, "mgmt"))
    alone = (Blow(Verb.ISOLATE, Role.ACTIVE),)
    return [
        *found,
        Fault(
            "management-cut", "the management network of an active is cut while media flows",
            cut, 5_000, moves=Moves.MUST,
        ),
        Fault(
            "isolated", "an active is cut off from everything, and then healed", alone, 6_000,
            moves=Moves.MUST, short=True,
        ),
    ]  # fmt: skip


def _takeovers() -> list[Fault]:
    """The standby that takes over dies at a step; etcd dies in the middle."""
    off, standby = Blow(Verb.POWER_OFF, Role.ACTIVE), Role.STANDBY
    still = Blow(Verb.AWAIT_HALT, standby)
    found = [
        Fault(
            f"taker-dies-{step}",
            f"the standby loses power when it has {step} in its takeover"
            if step != "detected"
            else "the standby loses power when it has detected the death",
            (off, still, Blow(Verb.POWER_OFF, standby)),
            prepare=(Blow(Verb.HALT_AT, standby, step),),
            moves=Moves.MUST,
            short=step == "armed",
        )
        for step in STEPS
    ]
    found.append(
        Fault(
            "taker-dies-restoring",
            "the standby loses power when its gateway process begins to answer",
            (off, still, Blow(Verb.POWER_OFF, standby)),
            prepare=(Blow(Verb.HALT_AT, standby, "active here"),),
            moves=Moves.MUST,
        )
    )
    for role, what in ((Role.LEADER, "leader"), (Role.MEMBER, "member")):
        found.append(
            Fault(
                f"etcd-{what}-dies-in-takeover",
                f"etcd's {what} dies when a takeover is about to be decided",
                (off, still, Blow(Verb.KILL_ETCD, role), Blow(Verb.GO_ON, standby)),
                prepare=(Blow(Verb.HALT_AT, standby, "detected"),),
                moves=Moves.MUST,
            )
        )
    return found


def _etcd() -> list[Fault]:
    every, leader = Role.ALL, Role.LEADER
    disks = (Blow(Verb.FAKE_DISK, every),)
    slow = Blow(Verb.SLOW_DISK, every, "", SLOW_DISK_MS)
    return [
        Fault(
            "etcd-leader-stands-still", "etcd's leader stands still for 2 s",
            (Blow(Verb.STOP_ETCD, leader),), 2_000, moves=Moves.NEVER, held=True,
        ),
        Fault(
            "etcd-all-pause", "no member of etcd answers for a second",
            (Blow(Verb.STOP_ETCD, every),), 1_000, moves=Moves.NEVER, held=True,
        ),
        Fault(
            "etcd-all-gone", "all members of etcd die and come back",
            (Blow(Verb.KILL_ETCD, every),), 3_000, moves=Moves.NEVER, held=True,
            said=TAKEOVERS_WAIT,
        ),
        Fault(
            "etcd-all-gone-long", "all members of etcd are gone for many leases",
            (Blow(Verb.KILL_ETCD, every),), 20_000, moves=Moves.NEVER, held=True,
            said=TAKEOVERS_WAIT,
        ),
        Fault(
            "etcd-all-still-long", "no member of etcd answers for many leases, none refuses",
            (Blow(Verb.STOP_ETCD, every),), 15_000, moves=Moves.NEVER, held=True,
            said=TAKEOVERS_WAIT,
        ),
        Fault(
            "etcd-all-gone-isolated", "all members of etcd die, then an active is cut off",
            (Blow(Verb.KILL_ETCD, every), Blow(Verb.ISOLATE, Role.ACTIVE)), 12_000,
            moves=Moves.MAY, said=TAKEOVERS_WAIT,
        ),
        Fault(
            "etcd-minority", "two of etcd's three members die and come back",
            (Blow(Verb.KILL_ETCD, leader), Blow(Verb.KILL_ETCD, Role.MEMBER)), 3_000,
            moves=Moves.NEVER, held=True, said=TAKEOVERS_WAIT,
        ),
        Fault(
            "etcd-gone-active-dies", "an active loses power while no member of etcd runs: its "
            "takeover waits until they are back",
            (
                Blow(Verb.KILL_ETCD, every), Blow(Verb.POWER_OFF, Role.ACTIVE),
                Blow(Verb.WAIT, every, "", 2_000), Blow(Verb.START_ETCD, every),
            ),
            moves=Moves.MUST, said=TAKEOVERS_WAIT,
        ),
        Fault(
            "etcd-slow-disk-leader", "each flush of the disk of etcd's leader takes a second",
            (Blow(Verb.SLOW_DISK, leader, "", 1_000),), 5_000, disks, moves=Moves.NEVER, held=True,
        ),
        Fault(
            "etcd-slow-disks", f"each flush of each disk of etcd takes {SLOW_DISK_MS} ms",
            (slow,), 5_000, disks, moves=Moves.NEVER, held=True,
        ),
        Fault(
            "etcd-slow-disks-active-dies", "an active loses power while etcd's disks are slow",
            (slow, Blow(Verb.POWER_OFF, Role.ACTIVE)), 0, disks, moves=Moves.MUST,
        ),
    ]  # fmt: skip


def _clocks() -> list[Fault]:
    found = []
    for name, seconds in (("forward", 3_600.0), ("back", -3_600.0)):
        found.append(
            Fault(
                f"clock-jumps-{name}",
                f"the wall clock of the active's processes jumps {name} by an hour",
                (Blow(Verb.SET_CLOCK, Role.ACTIVE, "", seconds),),
                3_000,
                prepare=(Blow(Verb.FAKE_CLOCK, Role.STANDBY), Blow(Verb.TAKE, Role.STANDBY)),
                moves=Moves.NEVER,
                held=True,
            )
        )
    for role, quiet in ((Role.STANDBY, True), (Role.ACTIVE, False)):
        who = "an observer" if quiet else "an active"
        found.append(
            Fault(
                f"starved-{role}",
                f"{who} gets a tenth of a processor for all of its processes",
                (Blow(Verb.STARVE, role, "", 10),),
                6_000,
                moves=Moves.NEVER if quiet else Moves.MAY,
                held=quiet,
            )
        )
    return found


def _upgrades() -> list[Fault]:
    return [
        Fault(
            "rolling-restart",
            "each node in turn is drained, its processes start again, it is a standby",
            (Blow(Verb.RESTART, Role.ACTIVE),),
            held=True,
        ),
        Fault(
            "rolling-upgrade",
            "all nodes run an earlier version; each in turn is drained and starts again with this",
            (Blow(Verb.RESTART, Role.ACTIVE),),
            held=True,
            previous=True,
        ),
    ]


FAULTS: Final = (
    *_power(),
    *_processes(),
    *_networks(),
    *_takeovers(),
    *_etcd(),
    *_clocks(),
    *_upgrades(),
)


def named(patterns: tuple[str, ...]) -> tuple[Fault, ...]:
    """The faults whose name is one of `patterns` or begins with it, in the table's order.

    Raises ConfigError for one that fits none.
    """
    for pattern in patterns:
        if not any(fault.name.startswith(pattern) for fault in FAULTS):
            raise ConfigError(
                f"no fault '{pattern[:64]}': there are {', '.join(f.name for f in FAULTS)}"
            )
    exact = {fault.name for fault in FAULTS} & set(patterns)
    return tuple(
        fault
        for fault in FAULTS
        if fault.name in exact or any(p not in exact and fault.name.startswith(p) for p in patterns)
    )


def fault(name: str) -> Fault:
    """Raises ConfigError naming the faults that there are."""
    (found, *_) = named((name,))
    if found.name != name:
        raise ConfigError(f"no fault '{name[:64]}': do you mean {found.name}?")
    return found
