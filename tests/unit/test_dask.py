"""A Dask cluster of two real worker processes gives what one machine gives."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client

from components.errors import InputError
from components.guarded import cluster
from components.guarded.cluster import check_versions, versions
from components.guarded.parallel import SCHEDULER_VARIABLE, Lost, over_groups
from components.raw import RowGroup, id_of
from components.settings import DecodingSettings
from tests.fuzzing import mutated_files
from tests.hostile import groups_of, groups_of_files, obey, outcomes

PROJECT = Path(__file__).parents[2]
LIMITS = DecodingSettings(pixels=10**7, frames=10, seconds=5.0, memory_mb=256)

Start = Callable[..., psutil.Process]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts `dask scheduler` or `dask worker`; at the end all end, and nothing that they started is left."""
    folder = tmp_path_factory.mktemp("dask")
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def begin(*arguments: str) -> psutil.Process:
        log = folder / f"{len(started)}.log"
        with log.open("wb") as file:
            program = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
                cwd=PROJECT,
                env={**os.environ, "PYTHONPATH": str(PROJECT), "DASK_TEMPORARY_DIRECTORY": str(folder)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        started.append((program, log))
        return psutil.Process(program.pid)

    yield begin
    below = [child for program, _ in started for child in children_of(program.pid)]
    for program, _ in reversed(started):
        program.terminate()
        program.wait(30)
    assert gone(below)


def children_of(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended within some seconds; a zombie has, but nobody has asked."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        alive = [process for process in processes if process.is_running()]
        if all(process.status() == psutil.STATUS_ZOMBIE for process in alive):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def start_scheduler(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Starts a scheduler and returns its address."""

    def begin() -> str:
        path = tmp_path_factory.mktemp("scheduler") / "file.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(path))
        deadline = time.monotonic() + 60
        while not (path.exists() and path.read_text().endswith("}")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return str(json.loads(path.read_text())["address"])

    return begin


@pytest.fixture(scope="module")
def workers(start: Start, start_scheduler: Callable[[], str]) -> Iterator[list[psutil.Process]]:
    """Two workers of a cluster that DASK_SCHEDULER_ADDRESS names."""
    address = start_scheduler()
    both = [start("worker", address, "--nthreads", "1") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, Client(address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        client.wait_for_workers(2, timeout=60)
        patch.setenv(SCHEDULER_VARIABLE, address)
        yield both


def results(groups: list[RowGroup]) -> list[tuple[list[str], list[Lost]]]:
    return list(over_groups(obey, groups, ["image"], LIMITS, "!"))


def on_this_machine(groups: list[RowGroup]) -> list[tuple[list[str], list[Lost]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(SCHEDULER_VARIABLE)
        return results(groups)


@pytest.mark.usefixtures("workers")
def test_results_and_losses_are_those_of_one_machine(tmp_path: Path) -> None:
    orders = [[f"{number}", f"sleep {0.2 / (number + 1):.2f}", f"signal SIGSEGV {number}"] for number in range(5)]
    groups = groups_of(tmp_path, [*orders, ["allocate 300"], ["exit 2", "the last"]])
    found = results(groups)
    assert found == on_this_machine(groups)
    assert found[-2:] == [
        ([], [Lost(id_of(b"allocate 300"), "needed more than 256 MiB")]),
        (["the last!"], [Lost(id_of(b"exit 2"), "the decoder crashed (exit status 2)")]),
    ]


@pytest.mark.usefixtures("workers")
def test_photos_are_decoded_to_the_same_pixels(tmp_path: Path) -> None:
    groups = groups_of_files(tmp_path, dict(mutated_files(200, 5, [])), 40)
    found = list(over_groups(outcomes, groups, ["file_name", "image"], LIMITS, LIMITS))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(SCHEDULER_VARIABLE)
        assert found == list(over_groups(outcomes, groups, ["file_name", "image"], LIMITS, LIMITS))


@pytest.mark.usefixtures("workers")
def test_errors_of_the_work_come_back(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="these words"):
        results(groups_of(tmp_path, [["a"], ["refuse these words"]]))


@pytest.mark.usefixtures("workers")
def test_a_worker_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "version", {**versions(), "pillow": "0.1"}.get)
    versions.cache_clear()
    with pytest.raises(InputError, match=r"Dask worker tcp://\S+: other versions than here: pillow \S+, here 0\.1"):
        results(groups_of(tmp_path, [["a"]]))
    versions.cache_clear()


def test_versions_name_all_that_decides_the_bytes() -> None:
    assert set(versions()) == {"python", "numpy", "pandas", "pillow", "pyarrow", "vitrine"}
    check_versions(versions(), versions(), "w")
    with pytest.raises(InputError, match="vitrine x, here"):
        check_versions(versions(), versions() | {"vitrine": "x"}, "w")


def test_a_worker_that_comes_late_is_checked_too() -> None:
    with pytest.raises(InputError, match="numpy"):
        cluster.run(b"", versions() | {"numpy": "0"})


def test_a_scheduler_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    groups = groups_of(tmp_path, [["a"]])
    for address in ("tcp://127.0.0.1:9", "no address", "http://127.0.0.1:9"):
        monkeypatch.setenv(SCHEDULER_VARIABLE, address)
        with pytest.raises(InputError, match=rf"^{SCHEDULER_VARIABLE}: no Dask scheduler answers at '{address}'"):
            results(groups)


def test_a_scheduler_without_workers_is_told(
    start_scheduler: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.5)
    monkeypatch.setenv(SCHEDULER_VARIABLE, start_scheduler())
    with pytest.raises(InputError, match="has no workers; start some with `dask worker"):
        results(groups_of(tmp_path, [["a"]]))


def test_when_a_worker_dies_the_others_do_its_work(workers: list[psutil.Process], tmp_path: Path) -> None:
    """The last test, for it takes one of the two."""
    groups = groups_of(tmp_path, [[f"sleep 0.3 {number}", f"{number}"] for number in range(12)])
    victim = workers[0]
    below = victim.children(recursive=True)
    found = []
    for outcome in over_groups(obey, groups, ["image"], LIMITS, "!"):
        found.append(outcome)
        if len(found) == 2:
            below = victim.children(recursive=True)
            assert len(below) >= 3  # Dask's worker, the helper, its guarded process
            for process in (victim, below[0]):
                process.send_signal(signal.SIGKILL)
    assert found == on_this_machine(groups)
    assert gone(below)
