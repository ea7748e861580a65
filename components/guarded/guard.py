"""Calls of functions in processes that may hang, crash or run out of memory without harm.

Processes are forked by one helper program (components/guarded/nursery.py), not by multiprocessing, whose
children import the main program again, cannot be started in Dask's workers, and take seconds to
be replaced; pools of the standard library end as a whole when one of their processes crashes.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from components.guarded.nursery import ENDED, ERROR, MESSAGE, OUT_OF_MEMORY, SECONDS, START

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""There is a process per core already, and a program without such threads can be forked safely."""

# Arrow's own allocators reserve a gigabyte, which would count against the limit.
ENVIRONMENT = {**ONE_THREAD, "ARROW_DEFAULT_MEMORY_POOL": "system"}


class LostError(Exception):
    """A guarded process ended before its task did; the message says why, the same on every run."""


class Nursery:
    """Starts guarded processes; may be used from several threads."""

    def __init__(self, modules: Sequence[str], memory_mb: int) -> None:
        """
        Args:
            modules: what is imported before processes are forked, so that none has to.
            memory_mb: what each may allocate beyond what it has when it starts, MiB (Linux only).
        """
        self.memory_mb = memory_mb
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-m", "components.guarded.nursery", str(theirs.fileno()), str(memory_mb), *modules]
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        with theirs:
            # In a session of its own, so that Ctrl-C reaches only the program that is in charge.
            self._program = subprocess.Popen(
                command,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self) -> tuple[int, Connection]:
        """A new process: its id, and the connection to its tasks and results."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = self._ask(START, 0, [theirs.fileno()])
            return pid, Connection(ours.detach())

    def status(self, pid: int) -> int:
        """Exit status of a process that has ended, or is about to; of one killed by a signal, minus its number."""
        return self._ask(ENDED, pid, [])

    def _ask(self, kind: bytes, value: int, descriptors: list[int]) -> int:
        with self._lock:
            try:
                socket.send_fds(self._control, [MESSAGE.pack(kind, value)], descriptors)
                answer = self._control.recv(MESSAGE.size, socket.MSG_WAITALL)
            except OSError:
                answer = b""
        if len(answer) < MESSAGE.size:
            raise RuntimeError("the program that starts guarded processes has ended; its error is above")
        return cast(int, MESSAGE.unpack(answer)[1])

    def close(self) -> None:
        """Kills all processes; calls in progress end with an error."""
        # Not under the lock: a thread may hold it while it waits for an answer.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._program.wait()
        self._control.close()


class GuardedProcess:
    """One process for one task after the other; a lost one is replaced. For one thread at a time."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self._process: tuple[int, Connection] | None = None

    def call(self, function: Callable[..., Any], *args: Any, seconds: float) -> Any:
        """What `function(*args)` returns or raises.

        Args:
            function: of a module, not of a class or another function; what is pickled is its name.
            seconds: it may take.

        Raises:
            LostError: it took longer, needed more memory, or crashed.
        """
        task = SECONDS.pack(seconds) + pickle.dumps((name_of(function), args), protocol=5)
        if self._process is None:
            self._process = self._nursery.start()
        pid, connection = self._process
        try:
            connection.send_bytes(task)
            answer = memoryview(connection.recv_bytes())
        except (EOFError, OSError):
            connection.close()
            self._process = None
            raise LostError(self._reason(self._nursery.status(pid), seconds)) from None
        content = pickle.loads(answer[1:])
        if answer[:1] == ERROR:
            raise content
        return content

    def _reason(self, status: int, seconds: float) -> str:
        if status == -signal.SIGALRM:
            return f"took longer than {seconds:g} s"
        if status == OUT_OF_MEMORY:
            return f"needed more than {self._nursery.memory_mb} MiB"
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the decoder crashed ({how})"

    def close(self) -> None:
        """Ends the process, once its task is done."""
        if self._process is not None:
            self._process[1].close()
            self._process = None


def name_of(function: Callable[..., Any]) -> str:
    """'module:name' of a function, by which another process finds it."""
    module = function.__module__
    if module == "__main__":
        # Run as `python -m package.module`: other processes import it by that name.
        specification = sys.modules[module].__spec__
        if specification is None:
            raise ValueError(f"{function.__qualname__}: of a script, which other processes cannot import")
        module = specification.name
    if "." in function.__qualname__:
        raise ValueError(f"{function.__qualname__}: not a module's own function")
    return f"{module}:{function.__qualname__}"
