"""Registered versions for tests, without a network: a packaged model's folder is all that a promotion reads."""

import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from components import tracking
from components.files import sha256_file
from components.protocol import VERSION
from components.registry.explaining import history
from components.registry.promotion import promote
from components.registry.verdicts import record_verdict

NAME = "vitrine-gan"
PROTOCOL = f"version={VERSION}; features=efflite0; dataset=abc"


def register(weights: bytes, name: str = NAME, **tags: str) -> str:
    """A new version with these bytes as its weights, laid out as `components.packaging` does; its number."""
    tracking.connect()
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with tempfile.TemporaryDirectory() as scratch, mlflow.start_run() as run:
        folder = Path(scratch) / "artifacts" / "gan"
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(weights)
        (folder / "model.json").write_text("{}")
        mlflow.log_artifacts(scratch, "model")
        tags = {"vitrine.weights_sha256": sha256_file(folder / "weights.safetensors"), **tags}
        source = f"{run.info.artifact_uri}/model"
        made = client.create_model_version(name, source, run_id=run.info.run_id, tags=tags)
    return str(made.version)


def verdict(
    version: str, baseline: str | None, *failures: tuple[str, str, str | None], name: str = NAME
) -> dict[str, Any]:
    """Content of a verdict.json about a version: PASSED without failures (code, metric, category)."""
    client = MlflowClient()
    reasons = [
        {
            "code": code,
            "metric": metric,
            "category": category,
            "text": f"{metric} of {category or 'all'} is bad: {code}",
        }
        for code, metric, category in failures
    ]
    return {
        "verdict": "FAILED" if failures else "PASSED",
        "reasons": reasons,
        "checks": [],
        "weights_sha256": client.get_model_version(name, version).tags["vitrine.weights_sha256"],
        "protocol": PROTOCOL,
        "baseline": None if baseline is None else {"version": baseline, "weights_sha256": "x", "protocol": PROTOCOL},
    }


def alias(name: str = NAME) -> str | None:
    """Where the alias `champion` stands."""
    found = MlflowClient().get_registered_model(name).aliases.get("champion")
    return None if found is None else str(found)


def passed(weights: bytes, baseline: str | None) -> str:
    """A version that passed its gate against this champion."""
    version = register(weights)
    record_verdict(NAME, version, verdict(version, baseline))
    return version


def champions(*weights: bytes) -> list[str]:
    """Versions promoted one after another."""
    made: list[str] = []
    for content in weights:
        before = made[-1] if made else None
        made.append(passed(content, before))
        promote(NAME, made[-1], expect_champion=before, why="better")
    return made


def kinds() -> list[str]:
    """What the journal has, in order."""
    return [entry.kind for entry in history(NAME)]


def set_alias(version: str) -> None:
    """What a hand does on MLflow's page."""
    MlflowClient().set_registered_model_alias(NAME, "champion", version)


def stored_weights(version: str) -> Path:
    """The file that the store hands out as the version's weights."""
    uri = MlflowClient().get_model_version_download_uri(NAME, version)
    return Path(uri.removeprefix("file://")) / "artifacts" / "gan" / "weights.safetensors"
