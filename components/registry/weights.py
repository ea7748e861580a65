"""Which weights a registered version really holds."""

import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components.errors import InputError
from components.files import sha256_file
from components.registry.refusals import RefusalError

WEIGHTS = "weights.safetensors"

DIGEST = "vitrine.weights_sha256"
"""Tag of a version: SHA-256 of the weights that were evaluated."""


def find_version(name: str, version: str) -> ModelVersion | None:
    """The version; None if the registry does not have it."""
    try:
        return MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def model_version(name: str, version: str) -> ModelVersion:
    """The version.

    Raises:
        InputError: the registry does not have it; those that it has are named.
    """
    if not version.isascii() or not version.isdigit():
        raise InputError(f"version: found {version!r}; give a number, as in 3")
    if version != str(int(version)):
        raise InputError(f"version: found {version!r}; give it as {int(version)}")
    found = find_version(name, version)
    if found is None:
        known = sorted(int(found.version) for found in MlflowClient().search_model_versions(f"name = '{name}'"))
        raise InputError(f"{name} has no version {version}; it has {known}")
    return found


def check_weights(name: str, version: str, expected: str | None) -> str:
    """Downloads the weights that the registry would hand out and compares their SHA-256.

    Returns:
        The SHA-256.

    Raises:
        RefusalError: they are others than expected, or it is not known which are expected.
        InputError: the version holds no weights, or more than one file of them.
    """
    if expected is None:
        raise RefusalError(
            "WEIGHTS_MISMATCH",
            f"{name}: nobody has noted the weights of version {version}, so they cannot be checked; let the gate "
            "judge it, and promote it then",
        )
    found = _weights_sha256(name, version)
    if found != expected:
        raise RefusalError(
            "WEIGHTS_MISMATCH",
            f"{name}: version {version} holds weights with SHA-256 {found}, judged were {expected}; they were changed "
            "in the store: find out by whom. No override lifts this; register the model anew and let the gate judge it",
            found=found,
            judged=expected,
        )
    return found


def _weights_sha256(name: str, version: str) -> str:
    source = MlflowClient().get_model_version_download_uri(name, version)
    folders = [file.path for file in mlflow.artifacts.list_artifacts(f"{source}/artifacts") if file.is_dir]
    files = [
        file.path
        for folder in folders
        for file in mlflow.artifacts.list_artifacts(f"{source}/artifacts/{Path(folder).name}")
        if Path(file.path).name == WEIGHTS
    ]
    if len(files) != 1:
        raise InputError(f"{name}: version {version} holds {len(files)} files {WEIGHTS} in {source}; it must be one")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(files[0]).parent.name
        return sha256_file(
            Path(mlflow.artifacts.download_artifacts(f"{source}/artifacts/{folder}/{WEIGHTS}", dst_path=scratch))
        )
