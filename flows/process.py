"""Runs a command inside a flow: its lines go to the Prefect log, and it ends when the flow does."""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT

from prefect.logging import get_run_logger

from flows.dag import ROOT

LINE_LIMIT = 2**24
"""Bytes in a line; asyncio's own 64 KiB break on long progress bars."""

PATIENCE = 10
"""Seconds between asking a command to end and ending it."""


class CommandFailedError(RuntimeError):
    """A command ended with a status other than 0.

    Attributes:
        tail: its last lines.
    """

    def __init__(self, command: tuple[str, ...], status: int, tail: list[str]) -> None:
        self.tail = tail
        super().__init__(f"`{' '.join(command)}` ended with status {status}; its last lines:\n" + "\n".join(tail))


async def stream(*command: str, timeout: int | None = None) -> None:
    """Runs a command in the checkout and logs its output line by line.

    In an async flow, so that cancelling it reaches this `await` at once: a sync flow shows Cancelled
    while the training it started runs on.

    Raises:
        CommandFailedError: the command's status is not 0.
        TimeoutError: it took longer than `timeout` seconds; it has been ended.
    """
    logger = get_run_logger()
    tail: list[str] = []
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, start_new_session=True, limit=LINE_LIMIT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(timeout):
            async for raw in process.stdout:
                # A progress bar draws over itself: what it showed last is the line.
                line = raw.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]
                if line:
                    logger.info(line)
                    tail = [*tail[-19:], line]
            status = await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)
    if status:
        raise CommandFailedError(command, status, tail)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends the command with all it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
