"""Processes by their marker: real ones, started, found and ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from infra import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

PARENT_OF_ANOTHER_SESSION = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


def silent(_line: str) -> None: ...


def start(state: Path, service: str, command: list[str]) -> psutil.Process:
    log = state / "logs" / f"{service}.log"
    return processes.launch(command, os.environ, processes.marker(state, service), log, state)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.02)


def first_line(state: Path, service: str) -> str:
    log = state / "logs" / f"{service}.log"
    wait_until(lambda: log.read_text().endswith("\n"))
    return log.read_text().splitlines()[0]


def test_a_service_is_found_by_its_marker(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    one, two = start(tmp_path / "one", "a", SLEEP), start(tmp_path / "one", "b", SLEEP)
    # A state directory whose path begins alike is another one.
    (tmp_path / "one-more").mkdir()
    other = start(tmp_path / "one-more", "a", SLEEP)
    try:
        assert processes.find(tmp_path / "one") == {"a": [one], "b": [two]}
        assert processes.end(tmp_path / "one", ["a"], 5, silent) == 1
        assert processes.find(tmp_path / "one") == {"b": [two]}
        assert processes.alive(other)
        assert os.getsid(other.pid) != os.getsid(0)
    finally:
        processes.end(tmp_path / "one", ["a", "b"], 5, silent)
        processes.end(tmp_path / "one-more", ["a"], 5, silent)
    assert processes.find(tmp_path / "one-more") == {}


def test_an_orphan_in_its_own_session_is_ended_and_strangers_are_not(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as stranger:
        try:
            parent = start(tmp_path, "worker", [sys.executable, "-c", PARENT_OF_ANOTHER_SESSION])
            orphan = psutil.Process(int(first_line(tmp_path, "worker")))
            parent.kill()
            wait_until(lambda: not processes.alive(parent))
            assert processes.find(tmp_path) == {"worker": [orphan]}
            assert processes.end(tmp_path, ["worker"], 5, silent) == 1
            assert not processes.alive(orphan)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_descendants_in_other_sessions_end_with_their_service(tmp_path: Path) -> None:
    parent = start(tmp_path, "worker", [sys.executable, "-c", PARENT_OF_ANOTHER_SESSION])
    child = psutil.Process(int(first_line(tmp_path, "worker")))
    assert os.getsid(child.pid) != os.getsid(parent.pid)
    try:
        assert processes.end(tmp_path, ["worker"], 5, silent) == 2
        assert not processes.alive(parent)
        assert not processes.alive(child)
    finally:
        for process in processes.find(tmp_path).get("worker", []):
            process.kill()


def test_what_ignores_sigterm_is_killed_after_the_patience(tmp_path: Path) -> None:
    start(tmp_path, "deaf", [sys.executable, "-c", DEAF])
    assert first_line(tmp_path, "deaf") == "deaf"
    said: list[str] = []
    begin = time.monotonic()
    processes.end(tmp_path, ["deaf"], 1, said.append)
    assert 1 <= time.monotonic() - begin < 10
    assert "killed" in said[-1]
    assert processes.find(tmp_path) == {}


def test_signals_that_the_caller_ignores_are_heard(tmp_path: Path) -> None:
    """As after `make up &` in a shell: a Prefect worker that ignores SIGINT would never end."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        process = start(tmp_path, "worker", ["/bin/sleep", "600"])
        wait_until(lambda: process.name() == "sleep")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGINT, before)
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk", "SigIgn"))}
    # The C library keeps signals 32 and 33 to itself: no program can set them, and some are started with one ignored.
    masks = {name: mask & ~(1 << 31 | 1 << 32) for name, mask in masks.items()}
    processes.end(tmp_path, ["worker"], 5, silent)
    assert masks == {"SigBlk": 0, "SigIgn": 0}


def test_the_main_process_is_told_from_others(tmp_path: Path) -> None:
    command = ["/bin/sleep", "600"]
    process = start(tmp_path, "sleeper", command)
    wait_until(lambda: process.name() == "sleep")
    try:
        found = processes.find(tmp_path)["sleeper"]
        assert processes.main_process(found, command) == process
        assert processes.main_process(found, ["/bin/sleep", "601"]) is None
    finally:
        processes.end(tmp_path, ["sleeper"], 5, silent)


def test_a_log_is_private_and_the_last_one_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "talker.log"
    for word in ("first", "second"):
        status = processes.run([sys.executable, "-c", f"print({word!r})"], os.environ, "m", log, tmp_path, 60)
        assert status == 0
    assert log.read_text() == "second\n"
    assert log.with_name("talker.log.1").read_text() == "first\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_not_there_is_in_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, "missing", ["/no/such/program"])
    wait_until(lambda: not processes.alive(process))
    assert "FileNotFoundError" in processes.tail(tmp_path / "logs" / "missing.log")


def test_the_tail_has_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(str(number) for number in range(100)))
    assert processes.tail(log, 3) == "  | 97\n  | 98\n  | 99"
    assert processes.tail(tmp_path / "none") == "(no log)"


def test_waiting_ends_with_the_answer_the_death_or_the_time() -> None:
    answers = iter(["not yet", None])
    assert processes.wait_for(lambda: next(answers), 5, lambda: True) is None
    assert processes.wait_for(lambda: "no", 5, lambda: False) == "its process has ended"
    assert processes.wait_for(lambda: "no", 0.01, lambda: True) == "not ready after 0.01 s: no"
