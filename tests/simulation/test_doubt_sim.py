"""The store of a cluster cannot tell, or cannot now: nothing is promised twice, nothing is lost.

Any write may be refused for the moment, or be in doubt, whether it was done or not. The caller
repeats himself until he is answered; safety and healing are those of the takeover simulation.
"""

from __future__ import annotations

import pytest

from bgf.errors import InDoubt, NotNow
from bgf.events import Command
from bgf.hands import Driver, Outcome
from bgf.journal import Mode
from tests.fakes.journal import Fuse
from tests.simulation.test_takeover_sim import Node, World, script

SEEDS = range(40)
TRIES_MAX = 200
MUTANT_SEEDS_MAX = 400
FAULT = 0.15


class Doubtful(World):
    """A world whose store fails now and then."""

    def __init__(self, seed: int, mode: Mode) -> None:
        super().__init__(seed, mode, None)
        self.faults = 0
        self.shared.not_now = lambda _: self._chance()
        self.shared.doubt = lambda _: self.rng.choice(("done", "undone")) if self._chance() else ""

    def _chance(self) -> bool:
        fault = self.rng.random() < FAULT
        self.faults += fault
        return fault

    def say(self, command: Command, entropy: int) -> None:
        for _ in range(TRIES_MAX):
            self.node.driver.handle(command, entropy)
            self.note(self.node)
            self.renew()
            if command.cookie in self.promised:
                return
            entropy = self.rng.getrandbits(64)  # a repetition draws anew
        raise AssertionError(f"{command} was never answered")

    def tick(self) -> None:
        self.node.driver.tick(self.now_ns)
        self.renew()

    def renew(self) -> None:
        """As the gateway process does: a machine in doubt is made again from what is recorded."""
        while self.node.driver.doubtful:
            self._begin()

    def move(self) -> None:
        self._begin()
        self.renew()

    def _begin(self) -> None:
        """Again, until what the last owner was working on could be read and brought in line."""
        for _ in range(TRIES_MAX):
            try:
                self.node = Node(self.shared, self.mode, Fuse(), self.now_ns)
            except (NotNow, InDoubt):
                continue
            return
        raise AssertionError("nobody could begin")

    def calm(self) -> None:
        self.shared.not_now, self.shared.doubt = lambda _: False, lambda _: ""
        self.move()


def play(seed: int, mode: Mode) -> int:
    world = Doubtful(seed, mode)
    for command, entropy in script(world):
        world.say(command, entropy)
        if world.rng.random() < 0.3:
            world.move()
            world.say(command, entropy + 1)  # whoever is asked now says the same
        if world.rng.random() < 0.3:
            world.tick()
    world.calm()
    world.check()
    world.heal()
    return world.faults


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", SEEDS)
def test_a_store_that_cannot_tell(seed: int, mode: Mode) -> None:
    play(seed, mode)


def test_the_store_fails_often() -> None:
    assert sum(play(seed, Mode.IMPLICIT) for seed in SEEDS) > len(SEEDS)


def test_the_checker_sees_doubt_taken_for_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that goes on after a doubtful entry promises what its journal does not say."""
    monkeypatch.setattr(Driver, "_fail", lambda self, error: _go_on(self))
    with pytest.raises(AssertionError):
        for seed in range(MUTANT_SEEDS_MAX):
            play(seed, Mode.IMPLICIT)


def _go_on(driver: Driver) -> Outcome:
    driver.doubtful = False
    return Outcome.FAILED
