"""The same work on every row group of data/raw, on all cores if there is much of it."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

FEW = 16
"""Tasks up to which one process is quicker: others take about a second to start."""


def over_groups(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """Results in the order of the tasks; `work` is a module's function, tasks and results are pickled."""
    workers = min(len(os.sched_getaffinity(0)), len(tasks))
    if workers < 2 or len(tasks) <= FEW:
        yield from map(work, tasks)
        return
    # Spawned, for forking a process with threads (Arrow's, OpenMP's) can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, tasks)
