"""What the stages' command lines share."""

import argparse
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import InputError
from components.settings import PARAMS_FILE

USER_ERROR = 2
"""Exit status of a stage that its input stopped: trying again would not help."""


def stage_parser(doc: str | None) -> argparse.ArgumentParser:
    """Parser with what all stages take; `doc` is the module's docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="settings (default: %(default)s)")
    return parser


@contextmanager
def explained_errors() -> Iterator[None]:
    """Ends the process with a message, not a traceback, where the user or the disk is at fault."""
    try:
        yield
    except InputError as error:
        lines = [printable(line) for line in str(error).split("\n")]
        print("error: " + "\n".join(lines), file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: the disk is full: {error}; free some space and run again, what was finished is kept",
            file=sys.stderr,
        )
        raise SystemExit(USER_ERROR) from None


def printable(text: str) -> str:
    """The text with what could disturb a terminal or a log (names may hold anything) as escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
