"""Trained models on their way into the registry, and the versions that hold them already."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from components.errors import InputError
from components.files import sha256_file
from components.registry.journal import Journal, open_journal
from components.registry.weights import DIGEST, WEIGHTS

SERVED = "vitrine.serving"
"""Tag of a version: what the serving smoke test said of the very bytes that were registered."""

SERVES = "passed"

SIGNER = "vitrine.signed_by"
"""Tag of a version: fingerprint of the key that signed its package."""


IMAGES = "vitrine.images_seen"
"""Tag of a version: how many images its training has seen."""


@dataclass(frozen=True)
class Candidate:
    """A trained model.

    Attributes:
        family: its key in params.yaml.
        weights_dir: folder with weights.safetensors and model.json.
        reports_dir: folder with what its stages reported: run.json, measurement.json, verdict.json, pictures.
        lineage: tags that join the identities: git commit and dirty flag, dvc.lock, flow run.
    """

    family: str
    weights_dir: Path
    reports_dir: Path
    lineage: dict[str, str]


def check_judged(candidate: Candidate, judged: str | None) -> str:
    """SHA-256 of the weights, if they are the ones that the gate judged.

    Raises:
        InputError: they are not.
    """
    path = candidate.weights_dir / WEIGHTS
    found = sha256_file(path) if path.exists() else "no such file"
    if found != judged:
        raise InputError(
            f"{path}: SHA-256 is {found}, the gate judged {judged}; run `dvc checkout`, or `dvc repro` to judge anew"
        )
    return found


def ensure_model(name: str) -> Journal:
    """The journal of a registered model; both are made if they are not there."""
    try:
        mlflow.MlflowClient().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    return open_journal(name)


def version_of(name: str, weights_sha256: str) -> ModelVersion | None:
    """The newest version that holds these weights already: registering twice would only add noise."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and tag.`{DIGEST}` = '{weights_sha256}'")
    return max(found, key=lambda version: int(version.version), default=None)
