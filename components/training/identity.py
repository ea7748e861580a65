"""What makes a training the one that it is: a checkpoint of another one must not be gone on from."""

import ast
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from components.settings import FamilySettings, TrainCommonSettings

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_EFFECT = {"keep_images", "checkpoint", "grids", "grid_columns", "watchdogs"}
"""Settings of train.common that change no weight: a training goes on where they were changed."""


def fingerprint(
    family: str, settings: FamilySettings, common: TrainCommonSettings, precision: str, dataset_digest: str
) -> str:
    """SHA-256 of all that decides on the weights: settings, data, torch and our code.

    Args:
        precision: what 'auto' came to on this machine.
    """
    content = {
        "family": family,
        "settings": settings.model_dump(mode="json"),
        "common": common.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "precision": precision,
        "dataset": dataset_digest,
        "torch": torch.__version__,
        "code": code_digest(("components.train", f"components.models.{family}")),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest(modules: Sequence[str]) -> str:
    """SHA-256 over the files of these modules and of all that they import of this project, directly or not."""
    digest = hashlib.sha256()
    for path in sorted(imported_files(modules)):
        digest.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def imported_files(modules: Sequence[str]) -> set[Path]:
    """Files of modules below `components`, and of those they import.

    Read from the source and not from what is loaded: a module that is imported late would change it.
    """
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or path in found:
            continue
        found.add(path)
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return found


def _file(module: str) -> Path | None:
    """The module's file; None if it is none of this project's."""
    place = ROOT.joinpath(*module.split("."))
    if module.split(".")[0] != "components":
        return None
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, and some that are functions or classes of one."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
