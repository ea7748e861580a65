"""The command `vitrine` in processes of its own that need not import anything first, which takes most of its time."""

import io
import multiprocessing
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["components.cli"])


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
