"""Progress of long work, as lines that a log can hold."""

import sys
import time

SECONDS = 5.0
"""Time between two lines."""


class Progress:
    """Counts what is done and says so on stderr, at most every SECONDS."""

    def __init__(self, what: str, total: int | None = None) -> None:
        """
        Args:
            what: the work and its unit, as in 'validate: photos decoded'.
            total: how many there are, if that is known.
        """
        self.what = what
        self.total = total
        self.done = 0
        self._last = time.monotonic()

    def add(self, count: int = 1) -> None:
        """Takes note that `count` more are done."""
        self.done += count
        if time.monotonic() - self._last >= SECONDS:
            self._last = time.monotonic()
            of_total = "" if self.total is None else f" of {self.total:,}"
            print(f"{self.what}: {self.done:,}{of_total}", file=sys.stderr, flush=True)
