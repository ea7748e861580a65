"""What the registry's functions say when they do not do what they were asked."""

from typing import Any, Literal

from components.errors import InputError

Code = Literal[
    "CONFLICT",
    "ALREADY_CHAMPION",
    "KEY_REUSED",
    "NOT_JUDGED",
    "GATE_FAILED",
    "STALE_BASELINE",
    "OUTDATED",
    "WEIGHTS_MISMATCH",
    "NO_EARLIER_CHAMPION",
    "NOTHING_TO_OVERRIDE",
]


class RefusalError(InputError):
    """The request was understood and is not carried out; nothing has changed.

    Attributes:
        code: for programs; the message is for people.
        facts: what the decision stands on, as JSON.
    """

    def __init__(self, code: Code, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts


class ConflictError(RefusalError):
    """Another version is champion than the one that was expected.

    Attributes:
        champion: the present one; None if there is none.
    """

    def __init__(self, name: str, expected: str | None, champion: str | None, how: str) -> None:
        super().__init__(
            "CONFLICT",
            f"{name}: expected champion {shown(expected)}, it is {shown(champion)}{how}; "
            "look at `vitrine history`, and let the gate compare with the present champion before you try again",
            expected=expected,
            champion=champion,
        )
        self.champion = champion


def shown(version: str | None) -> str:
    """A version in a message or a table."""
    return "none" if version is None else version
