"""DVC sees only what is declared: a module that a stage imports and dvc.yaml forgets goes stale unseen."""

import ast
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]


def imported_modules(path: Path) -> set[Path]:
    """Files of this project that a module imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    candidates = [PROJECT.joinpath(*name.split(".")) for name in names if name.startswith("components.")]
    files = [file for base in candidates for file in (base.with_suffix(".py"), base / "__init__.py")]
    return {file for file in files if file.is_file()}


def closure(path: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = {path}
    while waiting:
        found |= waiting
        waiting = {file for known in waiting for file in imported_modules(known)} - found
    return found


@pytest.mark.parametrize("stage", ["ingest", "validate", "prepare"])
def test_a_stage_declares_every_module_it_imports(stage: str) -> None:
    dag = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))
    declared = {dep for dep in dag["stages"][stage]["deps"] if dep.endswith(".py")}
    imported = {str(path.relative_to(PROJECT)) for path in closure(PROJECT / "components" / f"{stage}.py")}
    assert declared == imported
