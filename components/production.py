"""Loads a registered model the way production should: nothing of it runs before its bytes are checked."""

import atexit
import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from components import tracking
from components.errors import InputError
from components.files import sha256_file
from components.generative import WEIGHTS
from components.packaging import weights_folder
from components.registry.weights import DIGEST
from components.signing import required_key, verify


def load_production(name: str, alias: str = "champion", public_key: Path | None = None) -> PyFuncModel:
    """Downloads the version that has the alias, checks it, and loads it.

    Its weights are of the version; where this process has imported `components` before, the code is its own.

    Args:
        name: of the registered model, in the store that MLFLOW_TRACKING_URI names.
        public_key: its owner must have signed the model. None: VITRINE_REQUIRE_SIGNATURE says which key,
            and without that the signature is not looked at, while the weights' SHA-256 always is.

    Raises:
        InputError: there is no such version, it is unsigned, altered or signed by another key, or its
            weights are not those that were evaluated.
    """
    tracking.connect()
    folder = Path(tempfile.mkdtemp(prefix="vitrine-model-"))
    # Not before the end: Python imports parts of the model's code when they are first used.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    version = _version(name, alias)
    package = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}", dst_path=str(folder)))
    check_package(package, version.tags.get(DIGEST), public_key or required_key())
    model: PyFuncModel = mlflow.pyfunc.load_model(str(package))
    return model


def check_package(package: Path, weights_sha256: str | None, public_key: Path | None) -> None:
    """Checks a downloaded package before it is loaded.

    Args:
        package: a copy of one's own: what Python has compiled there is removed.
        weights_sha256: of the weights that were evaluated; None: the version does not say.
        public_key: its owner must have signed the package; None: anybody may have.

    Raises:
        InputError: see `load_production`.
    """
    # A store in a local folder is where others load from, and Python leaves compiled code there.
    for compiled in list(package.rglob("__pycache__")):
        shutil.rmtree(compiled)
    if public_key is not None:
        verify(package, public_key)
    if weights_sha256 is None:
        raise InputError(
            f"{package}: its version has no tag {DIGEST}, so nobody knows what was evaluated; register anew"
        )
    path = weights_folder(package) / WEIGHTS
    found = sha256_file(path) if path.exists() else "no such file"
    if found != weights_sha256:
        raise InputError(
            f"{path}: SHA-256 is {found}, evaluated was {weights_sha256}; the store has changed: roll back"
        )


def _version(name: str, alias: str) -> ModelVersion:
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise InputError(f"no version of '{name}' has the alias '{alias}'; promote one: {error.message}") from None
        raise
