"""A trained model as an MLflow pyfunc model: a folder, then a version in the registry."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from components.dataset import AttributeValues
from components.errors import InputError
from components.generative import CARD

PACKAGE = Path(__file__).resolve().parent

REQUIREMENTS = (
    "cronsim",
    "cryptography",
    "mlflow",
    "model-signing",
    "numpy",
    "pandas",
    "pillow",
    "psutil",
    "pydantic",
    "pyopenssl",
    "ruamel.yaml",
    "safetensors",
    "torch",
)
"""What the packaged code imports when it is served. Given to MLflow, which would else take seconds to find out."""

TAKEN = ("n", "seed", "index", "png")
"""Columns of a request and of its answer beside the conditions."""


def check_servable(attributes: AttributeValues) -> None:
    """Asks, before hours of training, that the model can be served under its conditions' names.

    Raises:
        InputError: a condition has the name of another column of a request or of its answer.
    """
    if taken := [name for name in attributes if name in TAKEN]:
        raise InputError(
            f"params.yaml: prepare.conditions: {taken} cannot be served, a request has columns {list(TAKEN)} beside "
            "the conditions; rename the attribute at the source"
        )


def save_package(model_dir: Path, attributes: AttributeValues, folder: Path) -> None:
    """Writes the model as a folder that MLflow can load, with all that loading it takes.

    What comes next: `signing.sign` the folder, `smoke.smoke` it, `register` it, in this order. Nothing
    in it changes from there on.

    Args:
        model_dir: weights.safetensors and model.json.
        folder: made here; must not be there, or be empty.
    """
    with _no_bytecode():
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(PACKAGE / "serving.py"),
            artifacts={"model": str(model_dir)},
            code_paths=[str(PACKAGE)],
            signature=signature(attributes),
            input_example=input_example(attributes),
            # Without a build's label (2.13.0+cpu): which build fits is the serving machine's matter.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def weights_folder(folder: Path) -> Path:
    """Where weights.safetensors and model.json lie in a package.

    Raises:
        InputError: nowhere, or at several places: the folder is no package.
    """
    found = [path.parent for path in folder.glob(f"artifacts/*/{CARD}")]
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} files artifacts/*/{CARD}, a packaged model has one; package it anew")
    return found[0]


class _Saved:
    """The flavor, in MLflow's sense, of a model that is saved already: logging it only copies."""

    @staticmethod
    def save_model(path: str, mlflow_model: Model, package: Path) -> None:  # noqa: ARG004
        shutil.copytree(package, path)


def register(folder: Path, registered_name: str, tags: dict[str, str]) -> str:
    """Logs a package into the active run, byte for byte, and registers it.

    Args:
        folder: as `save_package` and `signing.sign` left it.
        tags: of the new version, there from its first moment.

    Returns:
        The number of the new version.
    """
    logged = Model.log(None, _Saved, name="model", flavor_name="python_function", package=folder)
    return str(mlflow.register_model(logged.model_uri, registered_name, tags=tags).version)


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow runs the code that it packages: what Python compiles on the way would be packaged too."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def signature(attributes: AttributeValues) -> ModelSignature:
    """What the packaged model takes and gives, see `components.serving`."""
    conditions: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, name) for name in attributes]
    request: list[ColSpec | TensorSpec] = [*conditions, ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed")]
    image: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "seed"),
        ColSpec(DataType.long, "index"),
        ColSpec(DataType.binary, "png"),
    ]
    return ModelSignature(Schema(request), Schema([*conditions, *image]))


def input_example(attributes: AttributeValues) -> pd.DataFrame:
    """A request for one image of each attribute's first value."""
    return pd.DataFrame([{**{name: values[0] for name, values in attributes.items()}, "n": 1, "seed": 1}])
