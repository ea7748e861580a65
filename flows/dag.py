"""The graph of stages as dvc.yaml has it, and what of it is up to date."""

from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from components.errors import InputError

ROOT = Path.cwd()
"""The checkout that this process works in: Prefect's workers start flow runs in it."""


@dataclass(frozen=True)
class StageNode:
    """A stage, its place in the order, and what its `meta` in dvc.yaml asks for.

    Attributes:
        upstreams: stages whose outputs it reads.
        pool: Prefect work pool on which it runs.
        timeout: seconds after which it is ended.
    """

    name: str
    upstreams: frozenset[str]
    pool: str
    timeout: int


def open_repo() -> Any:
    """The DVC repository, waiting for its lock where another command holds it."""
    return Repo(str(ROOT), _wait_for_lock=True)


def read_dag() -> dict[str, StageNode]:
    """All stages, upstreams before downstreams.

    Raises:
        InputError: a stage's `meta` lacks its pool or timeout.
    """
    with open_repo() as repo:
        graph = repo.index.graph
        nodes = [_node(stage, frozenset(up.addressing for up in graph.successors(stage))) for stage in graph]
    return {node.name: node for node in _in_order(nodes)}


def _node(stage: Any, upstreams: frozenset[str]) -> StageNode:
    meta = stage.meta or {}
    if not isinstance(meta.get("pool"), str) or not isinstance(meta.get("timeout"), int):
        raise InputError(
            f"dvc.yaml: stage '{stage.addressing}' has meta {meta!r}; it needs a pool (a work pool's name) "
            "and a timeout (whole seconds), as in meta: {pool: cpu, timeout: 3600}"
        )
    return StageNode(stage.addressing, upstreams, meta["pool"], meta["timeout"])


def _in_order(nodes: list[StageNode]) -> list[StageNode]:
    """Upstreams first, else by name; DVC has refused cycles by now."""
    upstreams = {node.name: node.upstreams for node in nodes}
    place = {name: index for index, name in enumerate(TopologicalSorter(upstreams).static_order())}
    return sorted(nodes, key=lambda node: place[node.name])


def is_up_to_date(name: str) -> bool:
    """Whether the stage's command, inputs, parameters and outputs are those of its dvc.lock entry.

    Outputs that are not in the workspace count as there if the cache or the object store has them:
    what ran on another machine is not downloaded here.
    """
    with open_repo() as repo:
        (stage,) = repo.stage.collect(name)
        if stage.always_changed:  # what it reads lies outside: only it can tell
            return False
        if all(out.exists for out in stage.outs):
            return not repo.status(targets=[name])
        with repo.lock:
            # `allow_missing` would take a missing input for an unchanged one, so the lock is asked too.
            changed = stage.changed(allow_missing=True) or not all(
                dep.hash_info == out.hash_info for dep, out in produced_inputs(repo, stage)
            )
        return not changed and "missing" not in repo.status(targets=[name], cloud=True).values()


def produced_inputs(repo: Any, stage: Any) -> list[tuple[Any, Any]]:
    """The stage's dependencies that are outputs of other stages, each with that output.

    A file inside an output folder has no hash of its own in the lock and is left out.
    """
    outs = {out.fs_path: out for out in repo.index.outs}
    return [(dep, outs[dep.fs_path]) for dep in stage.deps if dep.fs_path in outs]
