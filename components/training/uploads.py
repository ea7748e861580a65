"""Sends things elsewhere while a training goes on, one at a time; of those that wait the last one counts."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Uploads(Generic[T]):
    """A thread with room for one waiting item: where things come faster than they go, old ones give way.

    Args:
        send: does it, and tells by itself of what fails.
    """

    def __init__(self, send: Callable[[T], None]) -> None:
        self._send = send
        # Not a daemon: a process that is asked to end still sends what it has begun.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vitrine-uploads")
        self._lock = Lock()
        self._waiting: T | None = None
        self._busy: Future[None] | None = None

    def offer(self, item: T) -> None:
        """Hands an item over; returns at once."""
        with self._lock:
            self._waiting = item
            if self._busy is None:
                self._busy = self._thread.submit(self._send_all)

    def wait(self) -> None:
        """Until nothing is under way.

        Raises:
            Exception: what `send` raised.
        """
        busy = self._busy
        if busy is not None:
            busy.result()

    def _send_all(self) -> None:
        while True:
            with self._lock:
                item, self._waiting = self._waiting, None
                if item is None:
                    self._busy = None
                    return
            self._send(item)
