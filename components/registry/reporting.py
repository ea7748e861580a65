"""What people look at when a model was judged: the report with the champion beside it, logged to the training's run."""

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion

from components import tracking
from components.dataset import load_split
from components.generative import GenerativeModel, load_model
from components.measurement import read_measurement
from components.model_card import model_card
from components.model_card.facts import TrainingFacts, read_data_facts, read_model_facts
from components.pictures import compare
from components.policy import Baseline
from components.registry.candidates import SIGNER, Candidate
from components.registry.entries import Overridden, iso
from components.registry.explaining import explain
from components.registry.figures import FIGURES, figures_of, write_figures
from components.registry.marking import CARD, PAGE, folder_of
from components.registry.state import State, last_override
from components.report.evaluation import (
    PICTURES,
    Champion,
    EvaluationPage,
    Fact,
    Override,
    read_pictures,
    write_evaluation,
)
from components.run_view import VERDICT
from components.settings import EvaluateSettings

COMPARISON = "comparison.png"
STRIPPED = ("samples.png", "real_and_generated.png")
FACTS_OF_PHOTOS = Path("validated/facts.parquet")
SHOWN = {COMPARISON: "Candidate, champion and real photos", **{name: title for name, (title, _) in PICTURES.items()}}
SECTIONS = ("code", "data", "training", "flow", "artifacts")
"""Of an explanation, what the report tells as well."""


def leave_report(
    candidate: Candidate,
    version: ModelVersion,
    verdict: Mapping[str, Any],
    champion: tuple[Baseline, GenerativeModel] | None,
    state: State,
    settings: EvaluateSettings,
    prepared_dir: Path,
) -> str | None:
    """Writes the report on a registered version, and logs it to the run of its training.

    Args:
        verdict: content of verdict.json, of the whole policy.
        champion: measured again; None if there is none, or it could not be.
        state: of the journal.

    Returns:
        Its address; None where runs go into a local file.
    """
    number = str(version.version)
    measured = read_measurement(candidate.reports_dir / "measurement.json")
    models = {"candidate": load_model(candidate.weights_dir)}
    if champion is not None:
        models["champion"] = champion[1]
    comparison = compare(models, load_split(prepared_dir, settings.split), settings.seed)
    pictures = read_pictures(candidate.reports_dir / "evaluation")
    override = _override(last_override(state, number))
    folder = folder_of(version.name, number)
    with tempfile.TemporaryDirectory() as scratch, tracking.resumed_run(candidate.reports_dir / "run.json") as run:
        page = EvaluationPage(
            family=candidate.family,
            verdict=verdict,
            measurement=measured,
            name=version.name,
            version=number,
            override=override,
            champion=_champion(champion, state),
            # What the strips show is left out.
            pictures={name: picture for name, picture in pictures.items() if name not in STRIPPED},
            strips=comparison.strips(),
            facts=_facts(version.name, number),
        )
        write_evaluation(Path(scratch) / PAGE, page)
        place = tracking.run_page(run.info.experiment_id, run.info.run_id)
        facts = read_model_facts(
            candidate.weights_dir,
            _training(candidate, run, place),
            data=read_data_facts(
                prepared_dir, candidate.reports_dir.parent / "ingest.json", prepared_dir.parent / FACTS_OF_PHOTOS
            ),
            measurement=measured,
            verdict=verdict,
            override=override,
            champion=state.champion.version,
            name=version.name,
            version=number,
            signature=_signature(version),
            pictures=[(name, SHOWN.get(name, name)) for name in (*pictures, COMPARISON)],
        )
        (Path(scratch) / CARD).write_text(model_card(facts), encoding="utf-8")
        rival = champion[0].measurement if champion else None
        write_figures(Path(scratch) / FIGURES, figures_of(verdict, measured, rival))
        for name, picture in {**pictures, COMPARISON: comparison.sheet()}.items():
            picture.save(Path(scratch) / name, format="PNG")
        mlflow.log_artifacts(scratch, folder)
        mlflow.set_tag(VERDICT, verdict["verdict"])
        return tracking.run_page(run.info.experiment_id, run.info.run_id, f"{folder}/{PAGE}")


def _signature(version: ModelVersion) -> str | None:
    signer = version.tags.get(SIGNER)
    return f"model.sig, by the key with fingerprint {signer}" if signer else None


def _training(candidate: Candidate, run: mlflow.ActiveRun, place: str | None) -> TrainingFacts:
    report = candidate.reports_dir / "training.json"
    known = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    seed = run.data.tags.get("vitrine.seed")
    return TrainingFacts(
        images_seen=known.get("images"),
        seed=int(seed) if seed else None,
        git_commit=candidate.lineage.get("vitrine.git_commit"),
        run_url=place,
    )


def _champion(champion: tuple[Baseline, GenerativeModel] | None, state: State) -> Champion | None:
    if state.champion.version is None:
        return None
    return Champion(state.champion.version, champion[0].measurement if champion else None)


def _override(found: Overridden | None) -> Override | None:
    if found is None or found.until <= iso(datetime.now(UTC)):
        return None
    return Override(found.who, found.why, found.until)


def _facts(name: str, version: str) -> list[Fact]:
    sections = explain(name, version).sections
    return [Fact(fact.name, fact.value, fact.link) for section in SECTIONS for fact in sections[section]]
