"""Promotion, rollback and override on demand, as flows: the same functions that the command `vitrine` calls."""

import asyncio
from typing import Any

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from components.errors import InputError
from components.notify import Event, notify
from components.registry import promotion, verdicts
from components.registry.entries import as_markdown
from components.registry.promotion import Outcome


@flow(name="promote", flow_run_name="promote {name} {version}", persist_result=False)
async def promote(
    name: str, version: int, why: str, expect_champion: int | None = None, who: str | None = None
) -> State[Any]:
    """Makes a version champion if its gate passed.

    Args:
        name: of the registered model.
        version: its number.
        why: kept in the history.
        expect_champion: the present champion as you know it; empty: there is none.
        who: kept in the history; empty: this flow run.
    """
    try:
        outcome = await asyncio.to_thread(
            promotion.promote,
            name,
            str(version),
            expect_champion=None if expect_champion is None else str(expect_champion),
            why=why,
            who=who or _flow_run(),
        )
    except InputError as error:
        return Failed(name="Refused", message=str(error))
    return await _told("promoted", outcome, why)


@flow(name="rollback", flow_run_name="rollback {name}", persist_result=False)
async def rollback(name: str, why: str, who: str | None = None) -> State[Any]:
    """Makes the previous champion champion again.

    Args:
        name: of the registered model.
        why: kept in the history.
        who: kept in the history; empty: this flow run.
    """
    try:
        outcome = await asyncio.to_thread(promotion.rollback, name, why=why, who=who or _flow_run())
    except InputError as error:
        return Failed(name="Refused", message=str(error))
    return await _told("rolled back", outcome, why)


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
        entry = await asyncio.to_thread(verdicts.override, name, str(version), why=why, until=until, who=who)
    except InputError as error:
        return Failed(name="Refused", message=str(error))
    title = f"{name}: the gate's verdict on version {version} is overridden until {entry.until}"
    return await _left("override", title, f"{title}\n\n{as_markdown(why)}\n\nby {as_markdown(entry.who)}, {entry.when}")


def _flow_run() -> str:
    return f"{runtime.flow_run.get_flow_name()} {runtime.flow_run.get_id()}"


async def _told(event: Event, outcome: Outcome, why: str) -> State[Any]:
    entry = outcome.event
    title = f"{outcome.name}: version {entry.to_version} {event}, before {entry.from_version or 'none'}"
    if outcome.repeated:
        return Completed(message=f"{title}: that was done on {entry.when} by {entry.who}")
    return await _left(
        event,
        title,
        f"{title}\n\n{as_markdown(why)}\n\nby {as_markdown(entry.who)}, {entry.when}; "
        f"champion is {outcome.champion or 'none'}",
    )


async def _left(event: Event, title: str, body: str) -> State[Any]:
    """Leaves a page, and tells those who want to know."""
    await create_markdown_artifact(key="promotion", markdown=body)  # type: ignore[misc]
    await asyncio.to_thread(notify, event, title, body)
    return Completed(message=title)
