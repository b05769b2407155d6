"""Work on many scans in several processes; one ITK thread in each, so that results do not depend on the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from gen3d.core.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_workers(asked: int, num_scans: int) -> int:
    """Processes to use: what was asked for, or one per core this process may use, never more than scans."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(asked or cores, num_scans))


def as_done(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[..., None],
    initargs: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield `function(item)` of every item as it is done, in spawned processes started with `initializer`.

    Raises:
        UserError: a worker process was killed.
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=initializer, initargs=initargs)
    try:
        for future in as_completed([pool.submit(function, item) for item in items]):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, probably for lack of memory; run the same command with workers=1."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
