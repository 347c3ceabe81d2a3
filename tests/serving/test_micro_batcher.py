from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from whale_ray.serving.engine.micro_batcher import MicroBatcher


class Doubler:
    """Doubles numbers on another thread, once it may; refuses 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()

    def __call__(self, numbers: list[int]) -> Sequence[int]:
        self.may.wait(10)
        self.batches.append(numbers)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def batcher(run: Doubler, most: int = 32) -> MicroBatcher[int, int]:
    return MicroBatcher(run, most=most, thread=ThreadPoolExecutor(1))


def test_a_single_item_waits_for_no_other() -> None:
    run = Doubler()
    run.may.set()
    assert asyncio.run(batcher(run).submit(21)) == 42
    assert run.batches == [[21]]


def test_items_that_arrive_during_a_batch_form_the_next_batch_up_to_the_limit() -> None:
    run = Doubler()

    async def scene() -> list[int]:
        together = batcher(run, most=4)
        first = asyncio.create_task(together.submit(0))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(together.submit(number)) for number in range(1, 7)]
        await asyncio.sleep(0.01)
        run.may.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(scene()) == [0, 2, 4, 6, 8, 10, 12]
    assert run.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_an_item_of_a_disconnected_caller_is_not_run() -> None:
    run = Doubler()

    async def scene() -> int:
        together = batcher(run)
        first = asyncio.create_task(together.submit(0))
        await asyncio.sleep(0.01)
        gone, stays = (asyncio.create_task(together.submit(number)) for number in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        run.may.set()
        await first
        return await stays

    assert asyncio.run(scene()) == 4
    assert run.batches == [[0], [2]]


def test_a_failed_item_does_not_fail_the_rest_of_its_batch() -> None:
    run = Doubler()
    run.may.set()

    async def scene() -> list[int | BaseException]:
        together = batcher(run)
        return await asyncio.gather(*(together.submit(number) for number in (12, 13, 14)), return_exceptions=True)

    first, failed, last = asyncio.run(scene())
    assert (first, last) == (24, 28)
    with pytest.raises(ValueError, match="13"):
        raise failed  # type: ignore[misc]


def test_a_batcher_goes_on_after_a_failure() -> None:
    run = Doubler()
    run.may.set()

    async def scene() -> int:
        together = batcher(run)
        with pytest.raises(ValueError, match="13"):
            await together.submit(13)
        return await together.submit(4)

    assert asyncio.run(scene()) == 8
