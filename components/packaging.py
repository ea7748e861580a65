"""Logs a trained model as an MLflow pyfunc model, with all that loading it takes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from components.dataset import AttributeValues
from components.errors import InputError

PACKAGE = Path(__file__).resolve().parent

REQUIREMENTS = (
    "cronsim",
    "filelock",
    "httpx",
    "lightning",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "psutil",
    "pyarrow",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "torch",
)
"""What the packaged code imports. Given to MLflow, which would else take seconds to find out."""

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


def package(model_dir: Path, attributes: AttributeValues, registered_name: str, tags: dict[str, str]) -> str:
    """Logs the model into the active run and registers it.

    Args:
        model_dir: weights.safetensors and model.json.
        tags: of the new version, there from its first moment.

    Returns:
        The number of the new version.
    """
    with _no_bytecode():
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE / "serving.py"),
            artifacts={"model": str(model_dir)},
            code_paths=[str(PACKAGE)],
            signature=signature(attributes),
            input_example=input_example(attributes),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    return str(mlflow.register_model(logged.model_uri, registered_name, tags=tags).version)


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow tries the model before it uploads it: what Python compiles on the way would be uploaded too."""
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
