"""dvc.yaml against the code: DVC sees only what is declared."""

import re
import shlex
from pathlib import Path
from typing import Any

import grimp
import pytest
from dvc.repo import Repo

from components.models import available_models
from components.settings import load_settings

EXEMPT = {
    # Checks params.yaml before any work; what it imports has no part in what ingest makes.
    "components.check",
}


@pytest.fixture(scope="module")
def stages() -> list[Any]:
    with Repo(".") as repo:
        return list(repo.index.stages)


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("components", cache_dir=None)


def entry_modules(stage: Any) -> list[str]:
    commands = stage.cmd if isinstance(stage.cmd, list) else [stage.cmd]
    return [word for command in commands for word in shlex.split(command) if word.startswith("components.")]


def closure(imports: grimp.ImportGraph, stage: Any) -> set[Path]:
    """Files of all modules that the stage's own module imports, the model family's file among them.

    What any family imports counts for all: dvc.yaml has one list for the models of a stage.
    """
    modules = {module for module in entry_modules(stage) if module not in EXEMPT}
    for module in list(modules):
        modules |= imports.find_upstream_modules(module)
    if "components.models" in modules:
        # `load_family` imports by name: the family of this stage, and no other.
        families = {f"components.models.{family}" for family in available_models()}
        modules |= {module for family in families for module in imports.find_upstream_modules(family)}
        modules -= families
        modules.add(f"components.models.{stage.name.partition('@')[2]}")
    return {module_file(module) for module in modules if module != "components"}


def module_file(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_every_module_that_a_stage_imports_is_among_its_deps(stages: list[Any], imports: grimp.ImportGraph) -> None:
    for stage in stages:
        declared = {Path(dep.def_path) for dep in stage.deps if dep.def_path.endswith(".py")}
        assert declared == closure(imports, stage), stage.name


def test_what_lies_beside_a_module_is_a_dep_with_it(stages: list[Any]) -> None:
    """Templates and the like, of the modules that read them: they decide what comes out as code does."""
    beside = [path for path in Path("components").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    beside = [path for path in beside if path.parent.name != "presets"]  # a person's choice, in params.yaml by then
    assert beside
    for stage in stages:
        declared = {Path(dep.def_path) for dep in stage.deps}
        for path in beside:
            assert (path in declared) == bool(readers(path) & declared), f"{stage.name}: {path}"


def readers(path: Path) -> set[Path]:
    """The modules beside a file that name it, or name a file that includes it."""
    naming = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    naming = [other for other in naming if f"{path.name}" in other.read_text()]
    assert naming, f"{path} is read by nothing"
    found = {other for other in naming if other.suffix == ".py"}
    return found.union(*(readers(other) for other in naming if other.suffix != ".py"))


def test_every_path_of_a_command_is_a_dep_or_an_output(stages: list[Any]) -> None:
    for stage in stages:
        known = {Path(item.def_path) for item in [*stage.deps, *stage.outs]}
        commands = stage.cmd if isinstance(stage.cmd, list) else [stage.cmd]
        for path in re.findall(r"(?:data|models|reports)/\S+", " ".join(commands)):
            # Data Docs change with every run, so they are no output; `--reports` names a folder of outputs.
            inside = any(Path(path) in out.parents for out in known)
            assert Path(path) in known or inside or path == "reports/data_docs", f"{stage.name}: {path}"


@pytest.mark.parametrize("stage", ["train", "evaluate", "gate"])
def test_the_models_of_the_settings_are_those_of_the_stages(stages: list[Any], stage: str) -> None:
    models = [found.name.partition("@")[2] for found in stages if found.name.startswith(f"{stage}@")]
    assert sorted(models) == sorted(load_settings().train.models)


def test_every_stage_says_where_it_runs_and_how_long(stages: list[Any]) -> None:
    for stage in stages:
        assert stage.meta["pool"] in ("cpu", "gpu"), stage.name
        assert stage.meta["timeout"] > 0, stage.name


def test_metrics_and_outputs_are_cached_so_that_another_machine_can_fetch_them(stages: list[Any]) -> None:
    assert [out.def_path for stage in stages for out in stage.outs if not out.use_cache] == []
