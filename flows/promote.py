"""Promotion, rollback, override and judging on demand, as flows: the same functions that `vitrine` calls."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from components.errors import InputError
from components.registry import promotion, verdicts
from components.registry.entries import as_markdown
from components.registry.promotion import Outcome
from flows.lockfile import bring_outputs
from flows.process import CommandFailedError, stream
from flows.release import decision_page


@flow(name="promote", flow_run_name="promote {name} {version}", persist_result=False)
async def promote(
    name: str,
    version: int,
    why: str,
    expect_champion: int | None = None,
    who: str | None = None,
    key: str | None = None,
) -> State[Any]:
    """Makes a version champion if its gate passed.

    Args:
        name: of the registered model.
        version: its number.
        why: kept in the history.
        expect_champion: the present champion as you know it; empty: there is none.
        who: kept in the history; empty: this flow run.
        key: of the request; the same key never promotes twice.
    """
    try:
        outcome = await asyncio.to_thread(
            promotion.promote,
            name,
            str(version),
            expect_champion=_text(expect_champion),
            why=why,
            who=who or _flow_run(),
            key=key,
            tell=True,
        )
    except InputError as error:
        return Failed(name="Refused", message=str(error))
    return await _told("promoted", outcome)


@flow(name="rollback", flow_run_name="rollback {name}", persist_result=False)
async def rollback(
    name: str,
    why: str,
    to: int | None = None,
    expect_champion: int | None = None,
    who: str | None = None,
    key: str | None = None,
) -> State[Any]:
    """Makes the previous champion champion again.

    Args:
        name: of the registered model.
        why: kept in the history.
        to: an earlier champion; empty: the previous one.
        expect_champion: refuse unless this version is champion; empty: whichever is.
        who: kept in the history; empty: this flow run.
        key: of the request; the same key never goes back twice.
    """
    try:
        outcome = await asyncio.to_thread(
            promotion.rollback,
            name,
            why=why,
            who=who or _flow_run(),
            expect_champion=_text(expect_champion),
            to=_text(to),
            key=key,
            tell=True,
        )
    except InputError as error:
        return Failed(name="Refused", message=str(error))
    return await _told("rolled back to", outcome)


@flow(name="override", flow_run_name="override {name} {version}", persist_result=False)
async def override(name: str, version: int, who: str, why: str, until: str) -> State[Any]:
    """Lets a version be promoted though its gate failed, in somebody's name.

    Args:
        name: of the registered model.
        version: its number.
        who: answers for it; kept in the history, as is why.
        why: what makes it right all the same.
        until: ISO 8601: a day or a moment; from then on it permits nothing.
    """
    try:
        entry = await asyncio.to_thread(verdicts.override, name, str(version), why=why, until=until, who=who, tell=True)
    except InputError as error:
        return Failed(name="Refused", message=str(error))
    title = f"{name}: the gate's verdict on version {version} is overridden until {entry.until}"
    return await _left(title, f"{title}\n\n{as_markdown(why)}\n\nby {as_markdown(entry.who)}, {entry.when}")


@flow(name="judge", flow_run_name="judge {name} {version}", persist_result=False)
async def judge(name: str, version: int, allow_uncommitted: bool = False) -> State[Any]:
    """Judges a version again: on the present photos, by the present policy, against the present champion.

    Args:
        name: of the registered model.
        version: its number.
        allow_uncommitted: although files differ from the worker's commit, which the history shows.
    """
    await asyncio.to_thread(bring_outputs, ["prepare"], missing=True)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "decision.json"
        try:
            await stream(
                *(sys.executable, "-m", "components.registry.judging", "--name", name, "--version", str(version)),
                *("--prepared", "data/prepared", "--reports", "reports", "--out", str(out)),
                *(["--allow-uncommitted"] if allow_uncommitted else []),
            )
        except CommandFailedError as error:
            return Failed(name="Refused", message=str(error))
        decision = json.loads(out.read_text(encoding="utf-8"))
    title = f"{name} version {version}: {decision['verdict']}: {decision['reason']}"
    return await _left(title, await asyncio.to_thread(decision_page, decision))


def _flow_run() -> str:
    return f"{runtime.flow_run.get_flow_name()} {runtime.flow_run.get_id()}"


def _text(version: int | None) -> str | None:
    return None if version is None else str(version)


async def _told(what: str, outcome: Outcome) -> State[Any]:
    entry = outcome.event
    title = f"{outcome.name}: {what} version {entry.to_version}, before {entry.from_version or 'none'}"
    warning = f"; override {outcome.override}" if outcome.override else ""
    warning += f"; warning: {outcome.warning}" if outcome.warning else ""
    if outcome.repeated:
        return Completed(message=f"{title}: that was done on {entry.when} by {entry.who}{warning}")
    return await _left(
        f"{title}{warning}",
        f"{title}\n\n{as_markdown(entry.why)}\n\nby {as_markdown(entry.who)}, {entry.when}; "
        f"champion is {outcome.champion or 'none'}{as_markdown(warning)}",
    )


async def _left(title: str, body: str) -> State[Any]:
    """Leaves a page."""
    await create_markdown_artifact(key="promotion", markdown=body)  # type: ignore[misc]
    return Completed(message=title)
