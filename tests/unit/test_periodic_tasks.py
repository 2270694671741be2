"""What a process does again and again: its pace may change, and no failure ends it."""

from __future__ import annotations

import asyncio

import pytest

from bgf.runtime.process import every


def test_one_that_fails_keeps_none_of_the_others_out(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fails() -> None:
        raise KeyError("a fault")

    def interval_ms() -> float:
        if len(done) == 4:
            raise asyncio.CancelledError
        return 0.0

    async def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            await every(
                interval_ms, lambda: done.append("first"), fails, lambda: done.append("2nd")
            )

    asyncio.run(run())
    assert done == ["first", "2nd"] * 2
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2


def test_the_interval_is_asked_for_anew_after_each_round() -> None:
    rounds, asked = 0, 0
    task: asyncio.Task[None]

    def work() -> None:
        nonlocal rounds
        rounds += 1
        assert asked == rounds - 1

    def interval_ms() -> float:
        nonlocal asked
        asked += 1
        if asked == 3:
            task.cancel()
        return 0.0

    async def run() -> None:
        nonlocal task
        task = asyncio.create_task(every(interval_ms, work))
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert (rounds, asked) == (3, 3)
