"""Registers a trained model: packaged, signed, and tried as production loads it."""

import json
import tempfile
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from components import tracking
from components.generative import load_card
from components.packaging import register, save_package
from components.registry.candidates import IMAGES, SERVED, SERVES, SIGNER, Candidate
from components.registry.weights import DIGEST
from components.signing import public_key_file, sign, signing_key
from components.smoke import SmokeTest, smoke


def register_candidate(name: str, candidate: Candidate, weights_sha256: str) -> ModelVersion:
    """Registers a candidate as a new version.

    The serving smoke test comes before: its result is a tag of the version from the first moment.
    """
    card = load_card(candidate.weights_dir)
    with tempfile.TemporaryDirectory() as scratch:
        package, key = Path(scratch) / "model", signing_key()
        save_package(candidate.weights_dir, card.attributes, package)
        signer = sign(package, key)
        print(f"{candidate.family}: serving smoke test of the packaged model", flush=True)
        tested = smoke(package, public_key_file(key))
        with tracking.resumed_run(candidate.reports_dir / "run.json") as run:
            tags = {
                **candidate.lineage,
                DIGEST: weights_sha256,
                "vitrine.dataset": card.dataset_digest,
                "vitrine.mlflow_run": run.info.run_id,
                "vitrine.family": candidate.family,
                IMAGES: _images_seen(candidate),
                SERVED: _told(tested),
                SIGNER: signer,
            }
            number = register(package, name, tags)
    return mlflow.MlflowClient().get_model_version(name, number)


def _images_seen(candidate: Candidate) -> str:
    """What training.json says; empty where there is none."""
    path = candidate.reports_dir / "training.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["images"]) if path.exists() else ""


def serve_again(version: ModelVersion) -> str:
    """What the smoke test says of a registered version, as the registry hands it out."""
    print(f"{version.name} {version.version}: serving smoke test once more", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        package = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=scratch)
        return _told(smoke(Path(package), public_key_file(signing_key())))


def _told(tested: SmokeTest) -> str:
    return SERVES if tested.passed else "; ".join(f"{reason.code}: {reason.text}" for reason in tested.reasons)
