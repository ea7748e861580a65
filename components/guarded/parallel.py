"""The same work on every row group of data/raw, in guarded processes: of this machine, or of a Dask cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local
from typing import Any, Protocol, TypeVar

from components.errors import InputError
from components.guarded.guard import GuardedProcess, LostError, Nursery, name_of
from components.guarded.nursery import function_named
from components.raw import Row, RowGroup, read_group
from components.settings import DecodingSettings

SCHEDULER_VARIABLE = "DASK_SCHEDULER_ADDRESS"

PRELOADED = (__name__, "pandas")
"""What workers import beside the work. Arrow imports pandas when it first meets Python objects."""

AHEAD = 2
"""Groups per worker that are handed out, or whose results wait for their turn."""

ROUNDS = 3
"""Times that a group is searched for the photos that end its process."""

Result = TypeVar("Result")
More = Callable[[RowGroup], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Lost:
    """A photo that could not be worked on.

    Attributes:
        reason: "took longer than 20 s", "needed more than 1024 MiB" or "the decoder crashed (SIGSEGV)".
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Portion:
    """A row group for a worker that has the disk at hand.

    Attributes:
        more: what is merged into each row, if anything.
    """

    group: RowGroup
    columns: Sequence[str]
    more: Sequence[Mapping[str, Any]] | None

    def rows(self) -> list[Row]:
        rows = read_group(self.group, self.columns)
        if self.more is None:
            return rows
        return [{**row, **added} for row, added in zip(rows, self.more, strict=True)]


@dataclass(frozen=True)
class Carried:
    """Photos for a worker that has no disk in common with this process."""

    photos: list[Row]

    def rows(self) -> list[Row]:
        return self.photos


Outcome = tuple[Result, list[Lost]]


def over_groups(
    work: Callable[..., Result],
    groups: Sequence[RowGroup],
    columns: Sequence[str],
    limits: DecodingSettings,
    *args: Any,
    more: More | None = None,
) -> Iterator[Outcome[Result]]:
    """What `work(rows, *args)` returns, for each group and in their order, and the photos that it lost.

    `rows` are the group's photos as `read_group(group, columns)` gives them, always with `id`. Photos that kill their
    process, need more memory than `limits` allow, or take longer, come back as Lost, with a
    reason; the result is then that of all other photos of the group. A group may be left without
    any: `work` must be able to do with an empty list.

    Runs on all cores, or on the Dask cluster that DASK_SCHEDULER_ADDRESS names: the results are
    the same. Only a few groups and results are held at a time, so take them one by one.

    Args:
        work: a function of a module, which workers import, and which must therefore start fast. It
            may be called several times for a group, so it must do nothing but return something.
            Everything else that it raises is raised here.
        args: fixed, and like the results pickled: arrays, Arrow tables and settings are, open files are not.
        more: what `work` needs to know of each photo beyond data/raw, as one mapping per id of the
            group, in their order; they are merged into the rows. Called here, when a group's turn comes.

    Raises:
        InputError: the cluster cannot be used, or photos only one by one, for want of memory.
    """
    columns = [*columns, *{"id"}.difference(columns)]
    portions = (Portion(group, columns, None if more is None else more(group)) for group in groups)
    address = os.environ.get(SCHEDULER_VARIABLE)
    if address:
        # Takes half a second to import.
        from components.guarded.cluster import over_cluster

        return over_cluster(address, name_of(work), portions, limits, args)
    return _over_cores(name_of(work), portions, limits, args, min(len(os.sched_getaffinity(0)), len(groups)))


def _over_cores(
    work: str, portions: Iterator[Portion], limits: DecodingSettings, args: tuple[Any, ...], workers: int
) -> Iterator[Outcome[Any]]:
    if not workers:
        return
    nursery = Nursery([*PRELOADED, work.partition(":")[0]], limits.memory_mb)
    processes = local()

    def run(portion: Portion) -> Outcome[Any]:
        if not hasattr(processes, "mine"):
            processes.mine = GuardedProcess(nursery)
        return isolated(processes.mine, work, portion, limits, args)

    with ThreadPoolExecutor(workers, "guard") as pool:
        try:
            yield from in_order(lambda portion: pool.submit(run, portion), portions, AHEAD * workers)
        finally:
            # Also when the caller stops early, or Ctrl-C does: threads that wait for a result end.
            pool.shutdown(wait=False, cancel_futures=True)
            nursery.close()


class Awaited(Protocol):
    """A future: of a thread, or of Dask."""

    def result(self) -> Any: ...


def in_order(submit: Callable[[Portion], Awaited], portions: Iterator[Portion], ahead: int) -> Iterator[Any]:
    """Results in the order of the portions, `ahead` of which are under way at a time."""
    waiting: deque[Awaited] = deque()
    for portion in portions:
        waiting.append(submit(portion))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def isolated(
    process: GuardedProcess, work: str, portion: Portion | Carried, limits: DecodingSettings, args: tuple[Any, ...]
) -> Outcome[Any]:
    """The result of all photos that do not end their process, and those that do."""
    try:
        # The time is meant for one photo, but hundreds seldom need it.
        return process.call(work_on, work, portion, args, seconds=limits.seconds), []
    except LostError:
        rows = portion.rows()
    lost: list[Lost] = []
    for _ in range(ROUNDS):
        rows, ended = _sieved(process, work, rows, limits, args)
        lost += ended
        try:
            seconds = limits.seconds * max(1, len(rows))
            return process.call(work_on, work, Carried(rows), args, seconds=seconds), lost
        except LostError as error:
            reason = error
    first = f", {rows[0]['id']} the first," if rows else ""
    raise InputError(
        f"{len(rows)} photos{first} can be worked on one by one but not together: their process {reason}; "
        "raise decoding.memory_mb and decoding.seconds in params.yaml, or free memory"
    )


def _sieved(
    process: GuardedProcess, work: str, rows: Sequence[Row], limits: DecodingSettings, args: tuple[Any, ...]
) -> tuple[list[Row], list[Lost]]:
    """Photos that can be worked on by themselves, and those that cannot."""
    good, lost = [], []
    for row in rows:
        try:
            process.call(work_on, work, Carried([row]), args, seconds=limits.seconds)
            good.append(row)
        except LostError as error:
            lost.append(Lost(row["id"], str(error)))
    return good, lost


def work_on(work: str, portion: Portion | Carried, args: tuple[Any, ...]) -> Any:
    """Called in the guarded process."""
    return function_named(work)(portion.rows(), *args)
