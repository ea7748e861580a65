"""What a journal holds: one entry for everything that happened to a registered model.

An entry is the value of an MLflow parameter, so it has to fit in `LIMIT` characters.
"""

import getpass
import hashlib
import json
import re
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from os import environ
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from components.errors import InputError

LIMIT = 6000
"""Characters of a parameter's value that MLflow keeps (`MAX_PARAM_VAL_LENGTH`)."""

TEXT_LIMIT, NAME_LIMIT = 1000, 200
"""Characters of a reason, and of a person's name, a key or a link."""


class Entry(BaseModel):
    """Something that happened.

    Attributes:
        number: place in the journal, from 1 without gaps.
        id: of this entry alone, so that no two processes ever write the same one.
        when: UTC, ISO 8601 with seconds, by the clock of the machine that wrote it.
        who: person or service, see `author`.
        why: in their words.
    """

    # A journal of a newer version may mean things that this one does not know: better to stop.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    number: int = Field(ge=1)
    id: str
    when: str
    who: str
    why: str


class Judged(Entry):
    """A gate's verdict on a version.

    Attributes:
        failures: code, metric and category of each failed check.
        reasons: the first few as sentences.
        cut: failures that found no room here.
        policy: digest of the policy that was applied, see `components.policy.digest`; None: nobody noted it.
        baseline: champion that the version was compared with; None if there was none.
        report: address of the evaluation's report.
        digest: SHA-256 of the whole verdict.
    """

    kind: Literal["judged"] = "judged"
    version: str
    verdict: Literal["PASSED", "FAILED"]
    failures: tuple[str, ...]
    reasons: tuple[str, ...]
    cut: int
    weights_sha256: str
    protocol: str
    policy: str | None = None
    baseline: str | None
    report: str | None
    digest: str


class Change(Entry):
    """Another version is champion."""

    from_version: str | None
    to_version: str | None


class Promoted(Change):
    """Attributes:
    tell: whether people are to be told, as for every entry that has it; none of before there was a mark for that has.
    expect: the champion that was expected to be there.
    key: of the request; the same key never promotes twice.
    judged: number of the verdict that it stands on.
    override: number of the override, where that verdict was FAILED.
    """

    kind: Literal["promoted"] = "promoted"
    to_version: str
    expect: str | None
    key: str
    weights_sha256: str
    judged: int
    override: int | None
    tell: bool = False


class RolledBack(Change):
    """Attributes:
    skipped: earlier champions that are in the registry no more.
    key: of the request, if it had one; the same key never rolls back twice.
    """

    kind: Literal["rolled_back"] = "rolled_back"
    to_version: str
    weights_sha256: str
    skipped: tuple[str, ...]
    key: str | None = None
    tell: bool = False


class Adopted(Change):
    """The champion that was there before the journal."""

    kind: Literal["adopted"] = "adopted"
    to_version: str
    weights_sha256: str | None


class MovedByHand(Change):
    """The alias was found elsewhere than the journal had put it."""

    kind: Literal["moved_by_hand"] = "moved_by_hand"


class Overridden(Entry):
    """Somebody answers for a version whose gate failed.

    Attributes:
        until: UTC, ISO 8601; from then on it permits nothing.
        judged: number of the FAILED verdict whose failures it lifts.
    """

    kind: Literal["overridden"] = "overridden"
    version: str
    until: str
    judged: int
    tell: bool = False


AnyEntry = Annotated[Judged | Promoted | RolledBack | Adopted | MovedByHand | Overridden, Field(discriminator="kind")]
_ANY: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)


def parse(text: str, where: str) -> AnyEntry:
    """An entry as it was written.

    Raises:
        InputError: it is damaged, or of a newer version of this program.
    """
    try:
        return _ANY.validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{where}: no entry that this version of Vitrine understands ({error.errors()[0]['msg']}); "
            "use the newest version; a journal is never to be changed by hand"
        ) from None


def digest_of(verdict: Mapping[str, Any]) -> str:
    """SHA-256 of the whole content of a verdict.json."""
    return hashlib.sha256(json.dumps(verdict, sort_keys=True).encode()).hexdigest()


def stamp(number: int, who: str | None, why: str) -> dict[str, Any]:
    """The fields that every entry has.

    Raises:
        InputError: no reason is given, or a text is too long or holds signs that cannot be shown.
    """
    return {
        "number": number,
        "id": uuid.uuid4().hex,
        "when": iso(datetime.now(UTC)),
        "who": line("who", author() if who is None else who, NAME_LIMIT),
        "why": line("why", why, TEXT_LIMIT),
    }


def line(name: str, text: str, limit: int) -> str:
    """The text on one line.

    Raises:
        InputError: it is empty, longer than `limit`, or holds signs that cannot be shown.
    """
    joined = " ".join(text.split())
    if not joined or len(joined) > limit:
        raise InputError(f"{name}: found {len(joined)} characters; give 1 to {limit}")
    if not joined.isprintable():
        raise InputError(f"{name}: {joined[:60]!a} holds signs that cannot be shown; give plain text")
    return joined


def as_markdown(text: str) -> str:
    """Somebody's words, with a backslash before every sign that Markdown would take for its own."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&-])", r"\\\1", text)


def author() -> str:
    """Who acts: VITRINE_USER, or the user and the machine."""
    if named := environ.get("VITRINE_USER"):
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def iso(moment: datetime) -> str:
    """UTC, with seconds: as text it sorts as it does in time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
