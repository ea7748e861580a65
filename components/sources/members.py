"""What the archive formats have in common: names that may lead out, members that come twice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from components.sources.convention import File
from components.sources.listing import SAME_NAME, NotTakenError, Refused
from components.sources.names import inner, shown

LINK = "a link within the archive"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the archive's own headers describe it.

    Attributes:
        reason: why it cannot be taken, if that is clear already.
        where: for `Members.read`.
    """

    name: str
    size: int
    where: Any
    reason: str | None = None


@dataclass(frozen=True)
class Members:
    """An open archive.

    Attributes:
        files: in the order of the archive.
        read: given a file's `where`, at most so many bytes of it, plus one if there are more; raises NotTakenError.
    """

    files: Sequence[File]
    refused: Sequence[Refused]
    read: Callable[[Any, int], bytes]


def checked(members: Iterable[Member], archive: str) -> tuple[list[File], list[Refused]]:
    """Members that are files with a possible name; of those with the same name the last, as when unpacking.

    Args:
        archive: fingerprint of the archive, with which those of the members begin.
    """
    files: dict[str, File] = {}
    refused: list[Refused] = []
    for number, member in enumerate(members):
        try:
            name = inner(member.name)
        except NotTakenError as error:
            refused.append(Refused(shown(member.name), str(error)))
            continue
        if member.reason is not None:
            refused.append(Refused(shown(name), member.reason))
            continue
        if files.pop(name, None) is not None:
            refused.append(Refused(shown(name), f"{SAME_NAME}: the last in the archive counts"))
        files[name] = File(name, member.size, f"{archive} {number}", member.where)
    return list(files.values()), refused
