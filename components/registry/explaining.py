"""Everything that is known about a registered version, each fact with a link where an address is known."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components import tracking
from components.registry.alias import CHAMPION, champion_alias
from components.registry.describing import describe_override, describe_verdict
from components.registry.entries import AnyEntry, Change, Judged
from components.registry.figures import Figure, figures_kept, figures_of_run
from components.registry.journal import EXPERIMENT, Record, find_journal
from components.registry.permission import outdated
from components.registry.refusals import shown
from components.registry.state import State, fold, last_override, stands_on_expired_override
from components.registry.weights import model_version

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fact:
    """Attributes:
    value: `UNKNOWN` where nobody noted it.
    link: page or place, if an address is known.
    """

    name: str
    value: str
    link: str | None = None


@dataclass(frozen=True)
class Explanation:
    """Attributes:
    figures: of the newest verdict, or of the evaluation where no verdict has any.
    sections: facts by what they are about.
    """

    name: str
    version: str
    figures: tuple[Figure, ...]
    sections: dict[str, tuple[Fact, ...]]


def history(name: str) -> list[AnyEntry]:
    """The journal's entries, oldest first; none of a model that nobody has promoted or judged.

    Raises:
        InputError: there is no such model, or MLflow cannot be used.
    """
    journal = find_journal(name)
    return [] if journal is None else list(journal.read().entries)


def explain(name: str, version: str) -> Explanation:
    """Where a version comes from, what was said about it and what became of it. Changes nothing.

    Raises:
        InputError: there is no such model or version, or MLflow cannot be used.
    """
    found = _read(name, version)
    sections = {
        "version": _identity(found),
        "verdict": _verdict(found),
        "decisions": tuple(_decision(entry) for entry in found.state.entries if _concerns(entry, version)),
        "code": _code(found),
        "data": _data(found),
        "training": _training(found),
        "flow": _flow(found),
        "artifacts": _artifacts(found),
        "params": _params(found.run),
    }
    return Explanation(name, version, _figures(found), sections)


@dataclass(frozen=True)
class _Found:
    version: ModelVersion
    alias: str | None
    state: State
    run: Run | None

    def tag(self, name: str) -> str:
        return str(self.version.tags.get(f"vitrine.{name}") or UNKNOWN)


def _read(name: str, number: str) -> _Found:
    journal = find_journal(name)
    alias = champion_alias(name)
    version = model_version(name, number)
    state = fold(journal.read()) if journal else fold(Record((), frozenset()))
    run_id = version.tags.get("vitrine.mlflow_run") or version.run_id
    return _Found(version, alias, state, _run(run_id) if run_id else None)


def _run(run_id: str) -> Run | None:
    try:
        return MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _identity(found: _Found) -> tuple[Fact, ...]:
    version, state = found.version, found.state
    number = str(version.version)
    page = tracking.page(f"models/{quote(version.name)}/versions/{number}")
    standing = "champion" if state.champion.version == number else "not champion"
    if stands_on_expired_override(state, datetime.now(UTC)) and state.champion.version == number:
        standing += ", ON AN EXPIRED OVERRIDE"
    if found.alias != state.champion.version:
        standing += f" (the alias {CHAMPION} stands at {shown(found.alias)}: moved by hand, or about to be moved)"
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        Fact("page", f"{version.name} {number}", page),
        Fact("status", standing),
        Fact("registered", created),
        Fact("weights SHA-256", found.tag("weights_sha256")),
    )


def _figures(found: _Found) -> tuple[Figure, ...]:
    if found.run is None:
        return ()
    judged = found.state.judged.get(str(found.version.version))
    kept = figures_kept(found.version.name, judged, found.run.info.run_id) if judged else ()
    return kept or figures_of_run(found.run)


def _verdict(found: _Found) -> tuple[Fact, ...]:
    number = str(found.version.version)
    judged = found.state.judged.get(number)
    if judged is None:
        return (Fact("gate", found.tag("gate")),)
    facts = [
        Fact("gate", f"{judged.verdict} on {judged.when}", judged.report),
        *(Fact("reason", reason) for reason in judged.reasons),
        Fact("compared with", f"champion {judged.baseline}" if judged.baseline else "no champion"),
        Fact("protocol", judged.protocol),
    ]
    if judged.verdict == "FAILED":
        facts.insert(1, Fact("failed", ", ".join(judged.failures)))
    if found.state.champion.version != number and (changed := outdated(found.state, judged)):
        facts.append(Fact("outdated", f"{changed}; `vitrine judge` judges it again"))
    if override := last_override(found.state, number):
        facts.append(Fact("override", describe_override(found.state, override, datetime.now(UTC))))
    return tuple(facts)


def _concerns(entry: AnyEntry, version: str) -> bool:
    if isinstance(entry, Change):
        return version in (entry.from_version, entry.to_version)
    return entry.version == version


def _decision(entry: AnyEntry) -> Fact:
    return Fact(f"{entry.when} {entry.kind.replace('_', ' ')}", told(entry))


def told(entry: AnyEntry) -> str:
    """An entry in a sentence."""
    if isinstance(entry, Change):
        what = f"{shown(entry.from_version)} -> {shown(entry.to_version)}"
    elif isinstance(entry, Judged):
        what = f"version {entry.version} {entry.verdict}: {describe_verdict(entry)}"
    else:
        what = f"version {entry.version}, until {entry.until}"
    return f"{what}; by {entry.who}: {entry.why}"


def _code(found: _Found) -> tuple[Fact, ...]:
    return (
        Fact("git commit", found.tag("git_commit"), _http(found.tag("git_url"))),
        Fact("uncommitted changes", found.tag("git_dirty")),
        Fact("dvc.lock", found.tag("dvc_lock")),
    )


def _data(found: _Found) -> tuple[Fact, ...]:
    report = found.tag("data_report")
    facts = [
        Fact("dataset", found.tag("dataset")),
        Fact("DVC hash", found.tag("dvc_data")),
        Fact("quality report", report, _http(report)),
    ]
    inputs = found.run.inputs.dataset_inputs if found.run and found.run.inputs else []
    counts = [tag.value for given in inputs for tag in given.tags if tag.key == "counts"]
    return (*facts, *(Fact("photos", value) for value in counts))


def _training(found: _Found) -> tuple[Fact, ...]:
    run = found.run
    if run is None:
        return (Fact("run", found.tag("mlflow_run")),)
    page = tracking.run_page(run.info.experiment_id, run.info.run_id)
    tags = run.data.tags
    return (
        Fact("run", f"{run.info.run_name} ({run.info.run_id})", page),
        Fact("run ended as", run.info.status),
        Fact("seed", tags.get("vitrine.seed", UNKNOWN)),
        Fact("fingerprint", tags.get("vitrine.fingerprint", UNKNOWN)),
    )


def _flow(found: _Found) -> tuple[Fact, ...]:
    run_id = found.tag("flow_run")
    server = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    known = server and run_id != UNKNOWN
    return (Fact("flow run", run_id, f"{server.rstrip('/')}/runs/flow-run/{run_id}" if known else None),)


def _artifacts(found: _Found) -> tuple[Fact, ...]:
    version = found.version
    place = MlflowClient().get_model_version_download_uri(version.name, str(version.version))
    facts = [Fact("model", version.source or UNKNOWN, place), Fact("DVC hash", found.tag("dvc_model"))]
    if found.run is not None:
        facts.append(Fact("run's files", found.run.info.artifact_uri, found.run.info.artifact_uri))
    return (*facts, Fact("journal", f"experiment {EXPERIMENT}", _journal_page(version.name)))


def _journal_page(name: str) -> str | None:
    journal = find_journal(name)
    if journal is None:
        return None
    info = MlflowClient().get_run(journal.run_id).info
    return tracking.run_page(info.experiment_id, info.run_id)


def _params(run: Run | None) -> tuple[Fact, ...]:
    params: dict[str, Any] = run.data.params if run else {}
    return tuple(Fact(key, params[key]) for key in sorted(params))


def _http(text: str) -> str | None:
    return text if text.startswith(("http://", "https://")) else None
