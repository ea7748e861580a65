"""The same work on a Dask cluster, whose scheduler DASK_SCHEDULER_ADDRESS names.

Scheduler and workers need this very version of Vitrine and of the libraries that decide what bytes
come out, but no disk in common: photos travel with their task. What hostile files may do to their
process is guarded against on each worker, as on one machine. A task whose worker dies is done by
another.
"""

import hashlib
import pickle
import platform
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock, local
from typing import Any

import dask
from distributed import Client, KilledWorker

from components.errors import InputError
from components.guarded.guard import GuardedProcess, Nursery
from components.guarded.parallel import (
    AHEAD,
    PRELOADED,
    SCHEDULER_VARIABLE,
    Awaited,
    Carried,
    Outcome,
    Portion,
    in_order,
    isolated,
)
from components.settings import DecodingSettings

LIBRARIES = ("numpy", "pandas", "pillow", "pyarrow")

CONNECT_SECONDS, WORKER_SECONDS = 10, 30
"""How long to wait for the scheduler, and for a first worker."""

TASK_BYTES = "1 GB"
"""Above this Dask warns of a task's size; ours carry a row group of photos."""


def over_cluster(
    address: str, work: str, portions: Iterator[Portion], limits: DecodingSettings, args: tuple[Any, ...]
) -> Iterator[Outcome[Any]]:
    """As components.guarded.parallel.over_groups, which calls it.

    Raises:
        InputError: the cluster cannot be reached, has no workers or other versions, or loses them
            again and again.
    """
    with _client(address) as client:
        expected = versions()
        _check_workers(client, expected, address)

        def submit(portion: Portion) -> Awaited:
            task = pickle.dumps((work, Carried(portion.rows()), limits, args), protocol=5)
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": TASK_BYTES}):
                future: Awaited = client.submit(run, task, expected, pure=False)
            return future

        try:
            for outcome in in_order(submit, portions, AHEAD * sum(client.nthreads().values())):  # type: ignore[no-untyped-call]
                yield pickle.loads(outcome)
        except KilledWorker as error:
            raise InputError(
                f"{address}: Dask's workers died again and again at the same photos ({error}); look at their logs "
                "and give them more memory, or unset " + SCHEDULER_VARIABLE
            ) from None
        except (CancelledError, OSError) as error:
            raise InputError(
                f"{address}: the connection to Dask's scheduler was lost ({type(error).__name__}); see that it runs, "
                f"and run again, or unset {SCHEDULER_VARIABLE}"
            ) from None


@contextmanager
def _client(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{SCHEDULER_VARIABLE}: no Dask scheduler answers at {address!r} ({type(error).__name__}); start one with "
            "`dask scheduler`, correct the address, as in tcp://host:8786, or unset the variable to use this machine"
        ) from None
    with client:
        yield client


def _check_workers(client: Client, expected: dict[str, str], address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError:
        raise InputError(
            f"{address}: Dask's scheduler has no workers; start some with `dask worker {address}`"
        ) from None
    try:
        found = client.run(versions)
    # Whatever a worker without this code, or with another version of Dask, answers.
    except Exception as error:
        raise InputError(
            f"{address}: a Dask worker cannot run this version of Vitrine ({type(error).__name__}: {error}); "
            "install the same one there, with the same lock"
        ) from None
    for worker, theirs in sorted(found.items()):
        check_versions(expected, theirs, worker)


def check_versions(expected: dict[str, str], found: dict[str, str], worker: str) -> None:
    """Compares what decides the bytes of the results.

    Raises:
        InputError: a worker's differ.
    """
    other = [f"{name} {found.get(name)}, here {value}" for name, value in expected.items() if found.get(name) != value]
    if other:
        raise InputError(
            f"Dask worker {worker}: other versions than here: {'; '.join(other)}; install the same Vitrine there, "
            f"with the same lock, or unset {SCHEDULER_VARIABLE} to use this machine"
        )


@cache
def versions() -> dict[str, str]:
    """Versions of what the results' bytes depend on: Python, libraries, and this code, as a hash."""
    code = hashlib.sha256()
    folder = Path(__file__).parent.parent
    for path in sorted(folder.rglob("*.py")):
        code.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version(name) for name in LIBRARIES}, "vitrine": code.hexdigest()[:16]}


_of_thread = local()
_nurseries: dict[tuple[str, int], Nursery] = {}
_nurseries_lock = Lock()


def run(task: bytes, expected: dict[str, str]) -> bytes:
    """Called on a worker: a pickled Outcome, from what `over_cluster` packed.

    Raises:
        InputError: this worker, which came later than the check of all, has other versions.
    """
    if versions() != expected:
        check_versions(expected, versions(), platform.node())
    work, photos, limits, args = pickle.loads(task)
    return pickle.dumps(isolated(_guarded(work, limits.memory_mb), work, photos, limits, args), protocol=5)


def _guarded(work: str, memory_mb: int) -> GuardedProcess:
    """The guarded process of this thread of a Dask worker; kept for further tasks, and ends with the worker."""
    key = (work.partition(":")[0], memory_mb)
    processes: dict[tuple[str, int], GuardedProcess] = _of_thread.__dict__.setdefault("processes", {})
    if key not in processes:
        with _nurseries_lock:
            if key not in _nurseries:
                _nurseries[key] = Nursery([*PRELOADED, key[0]], memory_mb)
        processes[key] = GuardedProcess(_nurseries[key])
    return processes[key]
