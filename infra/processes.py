"""Processes of the services: started, found and ended, without pid files.

Every service's environment carries a marker that its descendants inherit, also those that start a
session of their own or outlive their parent. What does not carry it is never touched.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from infra.settings import MARKER

# Signals that a shell's `&` or a test runner had ignored or blocked stay so in a new process, and a
# Prefect worker that ignores SIGINT never ends. A program of its own does this, not `preexec_fn`,
# which may deadlock when threads are about. It forks, so that the service is nobody's child to wait for.
_EXEC_DETACHED = """
import os, signal, sys
log = int(sys.argv[1])
pid = os.fork()
if pid:
    print(pid)
    sys.exit()
os.dup2(log, 1)
os.dup2(log, 2)
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.execv(sys.argv[2], sys.argv[2:])
"""

Say = Callable[[str], None]


def marker(state_dir: Path, service: str) -> str:
    return f"{state_dir}:{service}"


def launch(command: Sequence[str], environment: Mapping[str, str], mark: str, log: Path, cwd: Path) -> psutil.Process:
    """Starts a program in a session of its own; its output goes to `log`."""
    with _fresh_log(log) as handle:
        started = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _EXEC_DETACHED, str(handle), *command],
            env={**environment, MARKER: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[handle],
            check=True,
        )
    return psutil.Process(int(started.stdout))


def run(command: Sequence[str], environment: Mapping[str, str], mark: str, log: Path, cwd: Path, timeout: float) -> int:
    """Runs a program to its end; its output goes to `log`.

    Returns:
        Its exit status.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with _fresh_log(log) as handle:
        return subprocess.run(
            command,
            env={**environment, MARKER: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            timeout=timeout,
            check=False,
        ).returncode


@contextmanager
def _fresh_log(log: Path) -> Iterator[int]:
    """File descriptor of an empty log of mode 0600; the one before is kept as .1."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find(state_dir: Path) -> dict[str, list[psutil.Process]]:
    """Living processes that carry this state directory's marker, by service, oldest first."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        mark = _mark_of(process)
        beginning = marker(state_dir, "")
        if mark.startswith(beginning) and process.pid != os.getpid():
            found.setdefault(mark.removeprefix(beginning), []).append(process)
    for processes in found.values():
        processes.sort(key=lambda process: (process.create_time(), process.pid))
    return found


def main_process(
    processes: Iterable[psutil.Process], command: Sequence[str], *, whole: bool = True
) -> psutil.Process | None:
    """The one of them that runs `command`, not one of its descendants.

    Args:
        whole: False: also with other options; the program and its subcommand are compared.
    """
    # The interpreter's name may be resolved or replaced by the system: compare what follows.
    part = slice(1, None if whole else 4)
    for process in processes:
        with suppress(psutil.Error):
            if process.cmdline()[part] == list(command)[part]:
                return process
    return None


def end(state_dir: Path, services: Sequence[str], patience: float, say: Say = print) -> int:
    """Ends all processes of these services: their mains first, then what is left, then by force.

    Args:
        patience: seconds between SIGTERM and SIGKILL.

    Returns:
        The number of processes that were there.
    """
    ended: set[psutil.Process] = set()
    oldest = {name: of_name[0] for name, of_name in find(state_dir).items() if name in services}
    for name, process in oldest.items():
        _signal(process, force=False)
        say(f"{name}: stopping, pid {process.pid} (at most {patience:.0f} s)")
    ended.update(_gone(list(oldest.values()), patience, say))
    # Children may have been born meanwhile: look again until there are none.
    while left := _of(state_dir, services):
        for process in left:
            _signal(process, force=False)
        ended.update(_gone(left, patience, say))
    return len(ended)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:]) or "(the log is empty)"


def _of(state_dir: Path, services: Sequence[str]) -> list[psutil.Process]:
    return [process for name, of_name in find(state_dir).items() if name in services for process in of_name]


def _gone(processes: list[psutil.Process], patience: float, say: Say) -> list[psutil.Process]:
    """Waits for the processes to end, kills those that do not."""
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        say(f"pid {process.pid} is still there after {patience:.0f} s: killed")
        _signal(process, force=True)
    psutil.wait_procs(alive, timeout=patience)
    return processes


def _signal(process: psutil.Process, *, force: bool) -> None:
    """SIGTERM or SIGKILL; psutil makes sure that the pid is not a new process's."""
    with suppress(psutil.NoSuchProcess):
        if force:
            process.kill()
        else:
            process.terminate()


def _mark_of(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return process.environ().get(MARKER, "")
    except (psutil.Error, OSError):
        return ""  # gone, or somebody else's


def wait_for(question: Callable[[], str | None], timeout: float, alive: Callable[[], bool]) -> str | None:
    """Asks until there is no problem any more, time is up, or the one who is asked has died.

    Returns:
        The last problem, None if all is well.
    """
    deadline = time.monotonic() + timeout
    while (problem := question()) is not None:
        if not alive():
            return "its process has ended"
        if time.monotonic() > deadline:
            return f"not ready after {timeout:g} s: {problem}"
        time.sleep(0.2)
    return None
