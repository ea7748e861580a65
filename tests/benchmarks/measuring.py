"""Runs commands and measures them: wall time, and the peak memory of all their processes together."""

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[2]
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measured:
    """Attributes:
    seconds: wall time.
    cpu_seconds: processor time of all processes: other work on the machine hardly changes it.
    peak_mb: highest sum of the processes' proportional set sizes seen, MiB: shared pages count once.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float


def measured(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Runs `python -m ...` in the project to its end; what it prints is shown if it fails."""
    started, cpu_before = time.perf_counter(), cpu_of_children()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=PROJECT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, _memory(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{output}")
    return Measured(seconds, cpu_of_children() - cpu_before, peak)


def cpu_of_children() -> float:
    """Processor seconds of all child processes that have ended, theirs included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _memory(pid: int) -> float:
    total = 0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total / 2**20
