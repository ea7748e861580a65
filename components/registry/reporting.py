"""What people look at when a model was judged: the report with the champion beside it, logged to the training's run."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from PIL.Image import Image

from components import tracking
from components.dataset import load_split
from components.generative import GenerativeModel, load_model
from components.measurement import Measurement, read_measurement
from components.model_card import model_card
from components.model_card.facts import ModelFacts, TrainingFacts, read_data_facts, read_model_facts
from components.pictures import Comparison, compare
from components.policy import Baseline
from components.registry import explaining
from components.registry.candidates import IMAGES, SIGNER, Candidate
from components.registry.entries import digest_of
from components.registry.figures import FIGURES, figures_of, write_figures
from components.registry.marking import CARD, PAGE, folder_of
from components.registry.state import State
from components.report.evaluation import (
    PICTURES,
    Champion,
    EvaluationPage,
    Fact,
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

    An override is not in it: whether one covers the verdict is known when that is in the journal.

    Args:
        verdict: content of verdict.json, of the whole policy.
        champion: measured again; None if there is none, or it could not be.
        state: of the journal.

    Returns:
        Its address; None where runs go into a local file.
    """
    models = {"candidate": load_model(candidate.weights_dir)}
    if champion is not None:
        models["champion"] = champion[1]
    comparison = compare(models, load_split(prepared_dir, settings.split), settings.seed)
    pictures = read_pictures(candidate.reports_dir / "evaluation")
    measured = read_measurement(candidate.reports_dir / "measurement.json")
    rival = None if champion is None else champion[0].measurement
    judged = _Judged(candidate, version, verdict, measured, rival, state)
    with tempfile.TemporaryDirectory() as scratch, tracking.resumed_run(candidate.reports_dir / "run.json") as run:
        out = Path(scratch)
        write_evaluation(out / PAGE, _page(judged, pictures, comparison))
        facts = _card_facts(judged, run, prepared_dir, [*pictures, COMPARISON])
        (out / CARD).write_text(model_card(facts), encoding="utf-8")
        write_figures(out / FIGURES, figures_of(verdict, measured, rival))
        for name, picture in {**pictures, COMPARISON: comparison.sheet()}.items():
            picture.save(out / name, format="PNG")
        folder = folder_of(version.name, judged.number, digest_of(verdict))
        mlflow.log_artifacts(scratch, folder)
        mlflow.set_tag(VERDICT, verdict["verdict"])
        return tracking.run_page(run.info.experiment_id, run.info.run_id, f"{folder}/{PAGE}")


@dataclass(frozen=True)
class _Judged:
    """What there is to tell of a version.

    Attributes:
        verdict: content of verdict.json.
        rival: the champion's measurement; None if there is none, or it could not be measured.
        state: of the journal.
    """

    candidate: Candidate
    version: ModelVersion
    verdict: Mapping[str, Any]
    measured: Measurement
    rival: Measurement | None
    state: State

    @property
    def number(self) -> str:
        return str(self.version.version)

    @cached_property
    def sections(self) -> dict[str, tuple[explaining.Fact, ...]]:
        """Where it comes from, and what was said about it."""
        return explaining.explain(self.version.name, self.number).sections


def _page(judged: _Judged, pictures: Mapping[str, Image], comparison: Comparison) -> EvaluationPage:
    champion = judged.state.champion.version
    found = [fact for section in SECTIONS for fact in judged.sections[section]]
    return EvaluationPage(
        family=judged.candidate.family,
        verdict=judged.verdict,
        measurement=judged.measured,
        name=judged.version.name,
        version=judged.number,
        champion=None if champion is None else Champion(champion, judged.rival),
        # What the strips show is left out.
        pictures={name: picture for name, picture in pictures.items() if name not in STRIPPED},
        strips=comparison.strips(),
        facts=[Fact(fact.name, fact.value, fact.link) for fact in found],
    )


def _card_facts(judged: _Judged, run: mlflow.ActiveRun, prepared_dir: Path, pictures: Sequence[str]) -> ModelFacts:
    candidate = judged.candidate
    return read_model_facts(
        candidate.weights_dir,
        _training(judged, run),
        data=read_data_facts(
            prepared_dir, candidate.reports_dir.parent / "ingest.json", prepared_dir.parent / FACTS_OF_PHOTOS
        ),
        measurement=judged.measured,
        verdict=judged.verdict,
        champion=judged.state.champion.version,
        name=judged.version.name,
        version=judged.number,
        signature=_signature(judged.version),
        pictures=[(name, SHOWN.get(name, name)) for name in pictures],
    )


def _signature(version: ModelVersion) -> str | None:
    signer = version.tags.get(SIGNER)
    return f"model.sig, by the key with fingerprint {signer}" if signer else None


def _training(judged: _Judged, run: mlflow.ActiveRun) -> TrainingFacts:
    seed, images = run.data.tags.get("vitrine.seed"), judged.version.tags.get(IMAGES)
    return TrainingFacts(
        images_seen=int(images) if images else None,
        seed=int(seed) if seed else None,
        git_commit=judged.version.tags.get("vitrine.git_commit"),
        run_url=tracking.run_page(run.info.experiment_id, run.info.run_id),
        flow_url=next((fact.link for fact in judged.sections["flow"] if fact.link), None),
    )
