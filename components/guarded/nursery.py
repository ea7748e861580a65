"""The program behind components/guarded/guard.py: forks processes that do hostile work under limits.

It imports what the work needs once, with a single thread, and forks from there: a process that
was lost is replaced within milliseconds. Its parent asks for a process, and for how one ended,
over a socket; when that closes, for the parent ends or dies, it kills them all and ends.

    python -m components.guarded.nursery SOCKET MEMORY_MB MODULE...
"""

import ctypes
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import traceback
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

MESSAGE = struct.Struct("<cq")
"""Request or reply: its kind, and a process id or an exit status."""

START, ENDED = b"s", b"e"
RESULT, ERROR = b"r", b"e"
OUT_OF_MEMORY = 77
"""Exit status of a process that reached its limit."""

SECONDS = struct.Struct("<d")
"""How long a task may take; comes before its pickle."""


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    memory_mb = int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Both dispositions and masks come from whoever started this.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    for name in sys.argv[3:]:
        importlib.import_module(name)
    children: set[int] = set()
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE.size, 1, socket.MSG_WAITALL)
            if len(message) < MESSAGE.size:
                break
            kind, pid = MESSAGE.unpack(message)
            if kind == START:
                pid = _fork(control, descriptors[0], memory_mb)
                children.add(pid)
                control.sendall(MESSAGE.pack(START, pid))
            else:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                children.discard(pid)
                control.sendall(MESSAGE.pack(ENDED, status))
    except OSError:  # the parent went while it was answered
        pass
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _fork(control: socket.socket, descriptor: int, memory_mb: int) -> int:
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    try:
        control.close()
        _serve(Connection(descriptor), memory_mb)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _serve(connection: Connection, memory_mb: int) -> NoReturn:
    """Does task after task, until the other side closes."""
    _end_with_parent()
    _limit(memory_mb)
    _silence()
    while True:
        try:
            task = connection.recv_bytes()
        except (EOFError, ConnectionError):
            os._exit(0)
        # SIGALRM ends the process even if a decoder never returns to Python.
        signal.setitimer(signal.ITIMER_REAL, SECONDS.unpack_from(task)[0])
        answer = _done(memoryview(task)[SECONDS.size :])
        signal.setitimer(signal.ITIMER_REAL, 0)
        del task
        try:
            connection.send_bytes(answer)
        except ConnectionError:
            os._exit(0)
        del answer


def _done(task: memoryview) -> bytes:
    try:
        name, args = pickle.loads(task)
        return RESULT + pickle.dumps(function_named(name)(*args), protocol=5)
    except MemoryError:
        raise
    except Exception as error:
        error.add_note("In a guarded process:\n" + traceback.format_exc())
        return ERROR + _pickled(error)


def _pickled(error: Exception) -> bytes:
    """The error, or its text if it cannot be pickled and read again."""
    try:
        content = pickle.dumps(error, protocol=5)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(RuntimeError("\n".join([repr(error), *error.__notes__])), protocol=5)
    return content


@cache
def function_named(name: str) -> Any:
    """The function that 'module:name' names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _end_with_parent() -> None:
    """Should the nursery be killed, Linux kills this process (PR_SET_PDEATHSIG); others end at their next task."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() == 1:
            os._exit(0)


def _limit(memory_mb: int) -> None:
    """Limits what this process may allocate from here on; no core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not RLIMIT_AS, which counts the libraries' files and address space that is only reserved.
    held = _private_bytes()
    if held is not None:
        limit = held + memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _private_bytes() -> int | None:
    """What Linux counts against RLIMIT_DATA; elsewhere there is no such count, and no limit."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    (line,) = (line for line in status.splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def _silence() -> None:
    """libtiff and others print what they think of a file, which its author may have written."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    main()
