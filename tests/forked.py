"""Programs in processes of their own that need not import anything first, which takes most of their time."""

import io
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["components.cli", "components.train"])


@dataclass(frozen=True)
class Ended:
    """Attributes:
    status: of the process; negative: the signal that ended it.
    out, errors: what it printed; nothing of a process that a signal ended.
    """

    status: int
    out: str
    errors: str


class Command:
    """A process that runs `vitrine`.

    Args:
        words: its arguments.
        environment: variables beside this process's.
        before: is called in the process first; must be picklable.
    """

    def __init__(
        self, words: list[str], environment: Mapping[str, str] | None = None, before: Callable[[], Any] | None = None
    ) -> None:
        self._printed, far = SERVER.Pipe(duplex=False)
        arguments = (words, {**os.environ, **(environment or {})}, Path.cwd(), before, far)
        self._process = SERVER.Process(target=_run, args=arguments)
        self._process.start()
        far.close()

    def ended(self) -> Ended:
        """Waits for its end."""
        try:
            out, errors = self._printed.recv()
        except EOFError:
            out, errors = "", ""
        self._process.join()
        status = self._process.exitcode
        assert status is not None
        return Ended(status, out, errors)


def _run(
    words: list[str], environment: Mapping[str, str], folder: Path, before: Callable[[], Any] | None, far: Connection
) -> None:
    from components.cli import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if before is not None:
        before()
    out, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            main(words)
    finally:
        far.send((out.getvalue(), errors.getvalue()))


class Program:
    """A process that runs a module as `python -m` does.

    Args:
        module: its name.
        arguments: what follows it.
        folder: where it works.
        environment: its variables, all of them.
        log: file to which what it prints is added.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        given = (module, list(arguments), folder.absolute(), dict(environment), log.absolute())
        self._process = SERVER.Process(target=_run_module, args=given)
        self._process.start()

    def poll(self) -> int | None:
        """Its exit status; negative: the signal that ended it; None: it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it has ended; an error if it has not in so many seconds."""
        self._process.join(timeout)
        status = self._process.exitcode
        assert status is not None, f"it still runs after {timeout} s"
        return status

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def _run_module(module: str, arguments: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
    import torch

    with log.open("ab", buffering=0) as file:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Read by the libraries when they were loaded, before there was this environment.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
    del sys.modules[module]  # it is to be run, not only imported
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
