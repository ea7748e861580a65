import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.errors import InputError
from components.guarded.guard import GuardedProcess, LostError, Nursery, name_of
from components.guarded.parallel import Lost, Portion, in_order, isolated, over_groups
from components.raw import Photo, RowGroup, id_of
from components.settings import DecodingSettings
from tests.hostile import MIB, groups_of, merge, obey, pids

LIMITS = DecodingSettings(pixels=10**6, frames=10, seconds=2.0, memory_mb=256)
UNHURRIED = LIMITS.model_copy(update={"seconds": 60.0})
PROJECT = Path(__file__).parents[2]

Children = Callable[[], list[psutil.Process]]


@pytest.fixture
def process() -> Iterator[GuardedProcess]:
    nursery = Nursery(["tests.hostile"], LIMITS.memory_mb)
    yield GuardedProcess(nursery)
    nursery.close()


def results(groups: list[RowGroup], *args: Any) -> list[tuple[list[str], list[Lost]]]:
    return list(over_groups(obey, groups, ["id", "image"], LIMITS, *args))


def lost(order: str, reason: str) -> Lost:
    return Lost(id_of(order.encode()), reason)


@pytest.fixture
def children() -> Children:
    """Gives the processes that this test has started; those that other tests' libraries keep are not its own."""
    before = set(psutil.Process().children(recursive=True))
    return lambda: [child for child in psutil.Process().children(recursive=True) if child not in before]


def test_results_come_in_the_order_of_the_groups(tmp_path: Path) -> None:
    """Though the first take longest."""
    orders = [[f"sleep {0.3 / (number + 1):.2f} {number}", f"photo {number}"] for number in range(9)]
    found = results(groups_of(tmp_path, orders), "!")
    assert found == [([f"{order}!" for order in group], []) for group in orders]
    assert list(over_groups(obey, [], ["id", "image"], LIMITS)) == []


def test_several_processes_share_the_work(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, [[f"{number}"] for number in range(12)])
    used = {pid for pid, _ in over_groups(pids, groups, ["image"], LIMITS)}
    assert len(used) == min(12, len(os.sched_getaffinity(0)))
    assert os.getpid() not in used


def test_a_photo_that_ends_its_process_costs_itself_only(tmp_path: Path) -> None:
    fates = {
        "signal SIGSEGV": "the decoder crashed (SIGSEGV)",
        "signal SIGABRT": "the decoder crashed (SIGABRT)",
        "signal SIGKILL": "the decoder crashed (SIGKILL)",
        "exit 3": "the decoder crashed (exit status 3)",
        "sleep 60": "took longer than 2 s",
        "spin": "took longer than 2 s",
        "allocate 300": "needed more than 256 MiB",
        "allocate 100000": "needed more than 256 MiB",
    }
    orders = [[f"before {number}", order, f"after {number}"] for number, order in enumerate(fates)]
    alone = [["signal SIGSEGV again"], ["the last"]]
    assert results(groups_of(tmp_path, orders + alone)) == [
        *(([first, last], [lost(order, fates[order])]) for first, order, last in orders),
        ([], [lost("signal SIGSEGV again", "the decoder crashed (SIGSEGV)")]),
        (["the last"], []),
    ]


def test_what_is_below_the_limits_is_not_lost(tmp_path: Path) -> None:
    (outcome,) = over_groups(obey, groups_of(tmp_path, [["allocate 200", "sleep 2.5"]]), ["image"], UNHURRIED)
    assert outcome == (["allocate 200", "sleep 2.5"], [])


def test_the_time_is_each_photo_s_own(tmp_path: Path) -> None:
    """Together they take longer than one may."""
    orders = [f"sleep 0.6 {number}" for number in range(4)]
    assert results(groups_of(tmp_path, [orders])) == [(orders, [])]


def test_photos_that_do_not_fit_together_stop_the_work(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, [["allocate 150 a", "allocate 150 b"]])
    with pytest.raises(InputError, match=r"2 photos.*not together.*needed more than 256 MiB.*decoding\.memory_mb"):
        results(groups)


def test_errors_of_the_work_are_raised_here(tmp_path: Path, children: Children) -> None:
    with pytest.raises(InputError, match="these words") as caught:
        results(groups_of(tmp_path / "a", [["a"], ["refuse these words"]]))
    assert "tests/hostile.py" in caught.value.__notes__[0]
    with pytest.raises(TypeError):
        results(groups_of(tmp_path / "b", [["a"]]), 7)
    assert children() == []


def test_what_is_known_of_each_photo_is_merged_into_its_row(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, [["a", "b"], ["c"]])
    ranks = {id_of(letter.encode()): rank for rank, letter in enumerate("abc")}
    found = over_groups(
        merge, groups, ["image"], LIMITS, more=lambda group: [{"rank": ranks[photo]} for photo in group.ids]
    )
    assert [result for result, _ in found] == [[("a", 0), ("b", 1)], [("c", 2)]]


def test_only_a_few_groups_are_under_way() -> None:
    handed_out = []

    class Done:
        def __init__(self, portion: Any) -> None:
            handed_out.append(portion)
            self.portion = portion

        def result(self) -> Any:
            return self.portion

    portions: Iterator[Any] = iter(range(100))
    for number, portion in enumerate(in_order(Done, portions, ahead=4)):
        assert portion == number
        assert len(handed_out) <= number + 4
    assert len(handed_out) == 100


def test_no_process_is_left_when_the_caller_stops_early(tmp_path: Path, children: Children) -> None:
    groups = groups_of(tmp_path, [["a"], ["sleep 50"], ["sleep 51"], ["b"]])
    outcomes = over_groups(obey, groups, ["image"], UNHURRIED)
    next(outcomes)
    assert children()
    started = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 10
    assert children() == []


def test_a_process_is_kept_until_it_is_lost(children: Children, process: GuardedProcess) -> None:
    first = process.call(os.getpid, seconds=9)
    assert process.call(os.getpid, seconds=9) == first
    with pytest.raises(LostError):
        process.call(os._exit, 1, seconds=9)
    assert process.call(os.getpid, seconds=9) != first
    assert len([child for child in children() if child.status() != psutil.STATUS_ZOMBIE]) == 2


def test_results_may_be_large(process: GuardedProcess) -> None:
    assert process.call(bytes, 50 * MIB, seconds=60) == bytes(50 * MIB)


def test_what_decoders_print_is_not_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results(groups_of(tmp_path, [["print"]]))
    assert capfd.readouterr() == ("", "")


def test_a_module_that_cannot_be_imported_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    nursery = Nursery(["components.no_such_module"], 256)
    with pytest.raises(RuntimeError, match="its error is above"):
        GuardedProcess(nursery).call(os.getpid, seconds=9)
    nursery.close()
    assert "no_such_module" in capfd.readouterr().err


def test_functions_without_a_name_of_their_own_are_refused() -> None:
    assert name_of(obey) == "tests.hostile:obey"
    with pytest.raises(ValueError, match="not a module's own function"):
        name_of(lambda: None)
    with pytest.raises(ValueError, match="not a module's own function"):
        name_of(Photo.row)


def test_lost_photos_are_found_in_a_group_that_is_read_again(process: GuardedProcess, tmp_path: Path) -> None:
    """`isolated` on its own, as a Dask worker calls it."""
    (group,) = groups_of(tmp_path, [["a", "exit 1", "signal SIGSEGV", "b"]])
    result, gone = isolated(process, "tests.hostile:obey", Portion(group, ["id", "image"], None), LIMITS, ("?",))
    assert result == ["a?", "b?"]
    assert [(each.id, each.reason) for each in gone] == [
        (id_of(b"exit 1"), "the decoder crashed (exit status 1)"),
        (id_of(b"signal SIGSEGV"), "the decoder crashed (SIGSEGV)"),
    ]


SCRIPT = """
import signal, sys
from pathlib import Path
from components.guarded.parallel import over_groups
from components.settings import DecodingSettings
from tests.hostile import groups_of, obey

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
groups = groups_of(Path(sys.argv[1]), [["a"], ["sleep 60"], ["spin"], ["sleep 61"]])
for outcome in over_groups(obey, groups, ["image"], DecodingSettings(pixels=1, frames=1, seconds=99, memory_mb=256)):
    print("started", flush=True)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_a_program_that_is_stopped_leaves_no_process(number: signal.Signals, status: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"started\n"
        left = psutil.Process(program.pid).children(recursive=True)
        assert len(left) >= 2
        time.sleep(0.2)
        program.send_signal(number)
        assert program.wait(timeout=60) == status
    gone, alive = psutil.wait_procs(left, timeout=5)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert gone or alive
