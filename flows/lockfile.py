"""dvc.lock travels: a stage's entry is all that one machine must tell another.

The orchestrator sends the entries of what a stage stands on; the worker merges them, fetches those
very inputs, runs the stage, pushes what it made, and sends its own entry back.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dvc.exceptions import OutputNotFoundError
from dvc.utils.serialize import load_yaml, modify_yaml

from components.errors import InputError
from flows.dag import ROOT, open_repo, produced_inputs

Entries = dict[str, dict[str, Any]]
"""dvc.lock's `stages`: what each stage ran, read and made, with hashes."""

JOBS = 16
"""Transfers at a time: 5,000 small files took half the time they took with one."""


@contextmanager
def _entries_for_writing() -> Iterator[Entries]:
    """dvc.lock's entries, written back at the end.

    Under DVC's own lock: without it, merges at the same time lost entries in one of eight tries.
    """
    with open_repo() as repo, repo.lock, modify_yaml(str(ROOT / "dvc.lock")) as content:
        content.setdefault("schema", "2.0")
        yield content.setdefault("stages", {})


def read_entries(names: Iterable[str]) -> Entries:
    """The entries of these stages as plain data; one that never ran has none."""
    path = ROOT / "dvc.lock"
    if not path.exists():
        return {}
    with open_repo() as repo, repo.lock:
        stages = load_yaml(str(path)).get("stages", {})
    return {name: json.loads(json.dumps(stages[name])) for name in names if name in stages}


def merge_entries(entries: Entries) -> None:
    """Takes over entries from another machine; leaves the file alone if they are there already."""
    if read_entries(entries) == entries:
        return
    with _entries_for_writing() as stages:
        stages.update(entries)


def pull_inputs(name: str) -> None:
    """Brings the stage's inputs into the workspace exactly as the lock has them.

    Forced: a plain pull fetches what is missing, and leaves last week's data where they are. What is there
    already is not asked of the object store: DVC would take two seconds to find nothing to fetch.

    Raises:
        InputError: an input is in no cache and not in the object store, or is not what the lock says.
    """
    with open_repo() as repo:
        (stage,) = repo.stage.collect(name)
        targets = [path for path, outs in _needed(repo, stage) if any(out.workspace_status() for out in outs)]
        if not targets:
            return
        repo.pull(targets=targets, force=True, jobs=JOBS)
        for dep, out in produced_inputs(repo, stage):
            if out.workspace_status():
                raise InputError(
                    f"{dep.def_path}: is not what dvc.lock says after `dvc pull -f`; was it changed by hand? "
                    f"Run `dvc checkout -f {dep.def_path}` and try again"
                )


def _needed(repo: Any, stage: Any) -> Iterator[tuple[str, list[Any]]]:
    """Paths that must be in the workspace before the stage runs, each with the outputs that it is or lies in."""
    for dep in stage.deps:
        try:
            yield dep.def_path, repo.find_outs_by_path(dep.fs_path, recursive=True, strict=False)
        except OutputNotFoundError:  # DVC has neither it nor a file in it: it is tracked by git
            continue
    # What a stage adds to must be there as well: data/raw grows, it is not made anew.
    yield from ((out.def_path, [out]) for out in stage.outs if out.persist and out.hash_info)


def bring_outputs(names: Iterable[str], *, missing: bool) -> None:
    """Brings outputs in the workspace to what dvc.lock says, after a stage ran on another machine.

    Args:
        missing: fetch those that are not in the workspace too, not only those that are outdated.
    """
    with open_repo() as repo:
        outs = [(name, out) for name in names for stage in repo.stage.collect(name) for out in stage.outs]
        targets = {name for name, out in outs if (out.changed_checksum() if out.exists else missing)}
        if targets:
            repo.pull(targets=sorted(targets), force=True, jobs=JOBS)


def push_outputs(name: str | None = None) -> None:
    """Pushes the outputs of one stage, or of all, to the object store."""
    with open_repo() as repo:
        repo.push(targets=[name] if name else None, jobs=JOBS)
