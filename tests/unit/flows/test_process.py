import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.logging import disable_run_logger

from flows import process
from flows.process import CommandFailedError, stream

PARENT = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    """There is no flow run whose log could be written."""
    with disable_run_logger():
        yield


def gone(pid: int, patience: float = 5) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


async def started(pid_file: Path) -> int:
    while not (pid_file.exists() and pid_file.read_text()):
        await asyncio.sleep(0.05)
    return int(pid_file.read_text())


def test_cancelling_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    async def cancel_it() -> int:
        running = asyncio.create_task(stream(sys.executable, "-c", PARENT, str(tmp_path / "pid")))
        pid = await started(tmp_path / "pid")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return pid

    assert gone(asyncio.run(cancel_it()))


def test_a_timeout_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    async def wait_for_it() -> None:
        await stream(sys.executable, "-c", PARENT, str(tmp_path / "pid"), timeout=2)

    with pytest.raises(TimeoutError):
        asyncio.run(wait_for_it())
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.timeout(40)  # less than the command would take by itself
def test_a_command_that_ignores_the_request_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PARENT
    with pytest.raises(TimeoutError):
        asyncio.run(stream(sys.executable, "-c", stubborn, str(tmp_path / "pid"), timeout=2))
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_failure_has_the_status_and_the_last_lines() -> None:
    code = "print('first'); print('x' * 200_000); print('last'); raise SystemExit(3)"
    with pytest.raises(CommandFailedError, match=r"(?s)ended with status 3.*last") as failed:
        asyncio.run(stream(sys.executable, "-c", code))
    assert failed.value.tail[0] == "first"
    assert failed.value.tail[-1] == "last"


def test_of_a_progress_bar_the_last_state_is_the_line() -> None:
    code = "print('10%\\r50%\\r100%'); raise SystemExit(1)"
    with pytest.raises(CommandFailedError) as failed:
        asyncio.run(stream(sys.executable, "-c", code))
    assert failed.value.tail == ["100%"]
