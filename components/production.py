"""Loads a registered model the way production should: nothing of it runs before its bytes are checked."""

import atexit
import shutil
import tempfile
import warnings
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from components import tracking
from components.errors import InputError
from components.files import sha256_file
from components.generative import WEIGHTS
from components.packaging import weights_folder
from components.registry.alias import CHAMPION, champion_alias
from components.registry.journal import Journal, find_journal
from components.registry.refusals import shown
from components.registry.state import fold
from components.registry.weights import DIGEST
from components.signing import required_key, verify


def load_production(name: str, alias: str = CHAMPION, public_key: Path | None = None) -> PyFuncModel:
    """Downloads the champion, checks it, and loads it.

    Which version that is, and which weights it must have, the model's journal says. Where the alias stands
    elsewhere, a hand has moved it, or a promotion is being carried out: a warning says so, and the journal's
    champion is loaded. A model that has no journal has only MLflow's alias and the version's tag, with a
    warning; so has every other alias, which no journal knows.

    Its weights are of the version; where this process has imported `components` before, the code is its own.

    Args:
        name: of the registered model, in the store that MLFLOW_TRACKING_URI names.
        public_key: its owner must have signed the model. None: VITRINE_REQUIRE_SIGNATURE says which key,
            and without that the signature is not looked at, while the weights' SHA-256 always is.

    Raises:
        InputError: there is no such version, a hand alone has made it champion, it is unsigned, altered or
            signed by another key, or its weights are not those that were evaluated.
    """
    tracking.connect()
    folder = Path(tempfile.mkdtemp(prefix="vitrine-model-"))
    # Not before the end: Python imports parts of the model's code when they are first used.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    version, weights_sha256 = _wanted(name, alias)
    package = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(folder)))
    check_package(package, weights_sha256, public_key or required_key())
    model: PyFuncModel = mlflow.pyfunc.load_model(str(package))
    return model


def check_package(package: Path, weights_sha256: str | None, public_key: Path | None) -> None:
    """Checks a downloaded package before it is loaded.

    Args:
        package: a copy of one's own: what Python has compiled there is removed.
        weights_sha256: of the weights that were evaluated; None: nobody has noted it.
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
            f"{package}: neither a journal nor the version's tag {DIGEST} says what was evaluated; register anew"
        )
    path = weights_folder(package) / WEIGHTS
    found = sha256_file(path) if path.exists() else "no such file"
    if found != weights_sha256:
        raise InputError(
            f"{path}: SHA-256 is {found}, evaluated was {weights_sha256}; the store has changed: roll back"
        )


def _wanted(name: str, alias: str) -> tuple[str, str | None]:
    """The version to load, and the SHA-256 of its weights."""
    if alias != CHAMPION:
        return _by_alias(name, alias)
    if (journal := find_journal(name)) is not None:
        return _champion(journal)
    wanted = _by_alias(name, alias)
    warnings.warn(
        f"{name} has no journal: version {wanted[0]} is loaded on the word of MLflow's alias and tag alone, which "
        f"anybody may have set; `vitrine promote` begins a journal",
        stacklevel=3,
    )
    return wanted


def _champion(journal: Journal) -> tuple[str, str]:
    """The champion that the journal has, and the SHA-256 of the weights it was promoted with."""
    name, champion = journal.name, fold(journal.read()).champion
    found = champion_alias(name)
    if champion.version is None:
        beside = "" if found is None else f", though the alias '{CHAMPION}' stands at version {found}"
        raise InputError(f"{name}: by its journal there is no champion{beside}; promote one, see `vitrine history`")
    if champion.weights_sha256 is None:
        raise InputError(
            f"{name}: version {champion.version} is champion, but nobody has noted the weights it was evaluated with: "
            "somebody has moved the alias by hand, or it is older than the journal. `vitrine rollback` goes back to "
            "the champion before; if there is none, remove the alias and promote a version that passed"
        )
    if found != champion.version:
        warnings.warn(
            f"{name}: the alias '{CHAMPION}' stands at {shown(found)}, by the journal version {champion.version} is "
            "champion and is loaded; any `vitrine` command that changes the model, and every retraining, settles that",
            stacklevel=4,
        )
    return champion.version, champion.weights_sha256


def _by_alias(name: str, alias: str) -> tuple[str, str | None]:
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise InputError(f"no version of '{name}' has the alias '{alias}'; promote one: {error.message}") from None
        raise
    return str(version.version), version.tags.get(DIGEST)
