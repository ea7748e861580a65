"""The travelling lock, on a small DVC project of its own."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dvc.exceptions import DvcException

from components.errors import InputError
from flows import dag, lockfile
from tests.project import commit, dvc, git

DVC_YAML = """
stages:
  one:
    cmd: echo one > one.txt
    outs: [one.txt]
    meta: {pool: cpu, timeout: 60}
  two:
    cmd: cat one.txt one.txt > two.txt
    deps: [one.txt]
    outs: [two.txt]
    meta: {pool: gpu, timeout: 60}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run, pushed to a folder that stands for the object store."""
    folder = tmp_path_factory.mktemp("lock") / "project"
    folder.mkdir()
    git(folder, "init", "--quiet")
    dvc(folder, "init", "--quiet")
    dvc(folder, "remote", "add", "--default", "store", str(folder.parent / "store"))
    (folder / "dvc.yaml").write_text(DVC_YAML)
    dvc(folder, "repro", "--quiet")
    dvc(folder, "push", "--quiet")
    commit(folder, "Start")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in which the flows' functions work."""
    return enter(Path(shutil.copytree(made, tmp_path / "project")), monkeypatch)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (dag, lockfile):
        monkeypatch.setattr(module, "ROOT", folder)
    monkeypatch.chdir(folder)
    return folder


def test_the_dag_is_that_of_dvc_yaml(project: Path) -> None:
    nodes = dag.read_dag()
    assert list(nodes) == ["one", "two"]
    assert nodes["two"].upstreams == {"one"}
    assert (nodes["two"].pool, nodes["two"].timeout) == ("gpu", 60)
    assert project.exists()


def test_a_stage_without_a_pool_is_explained(project: Path) -> None:
    (project / "dvc.yaml").write_text(DVC_YAML.replace("    meta: {pool: gpu, timeout: 60}\n", ""))
    with pytest.raises(InputError, match=r"stage 'two' has meta \{\}; it needs a pool"):
        dag.read_dag()


def test_what_ran_is_up_to_date_until_its_input_changes(project: Path) -> None:
    assert dag.is_up_to_date("one")
    assert dag.is_up_to_date("two")
    (project / "one.txt").unlink()
    (project / "one.txt").write_text("another\n")
    assert not dag.is_up_to_date("one")
    assert not dag.is_up_to_date("two")


def test_a_stage_that_looks_outside_is_never_up_to_date(project: Path) -> None:
    (project / "dvc.yaml").write_text(
        DVC_YAML.replace("    outs: [one.txt]\n", "    outs: [one.txt]\n    always_changed: true\n")
    )
    assert not dag.is_up_to_date("one")
    assert dag.is_up_to_date("two")


def test_outputs_that_only_the_store_has_count_as_there(project: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (project / name).unlink()
    shutil.rmtree(project / ".dvc" / "cache")
    assert dag.is_up_to_date("one")
    assert dag.is_up_to_date("two")
    assert not (project / "one.txt").exists()


def test_outputs_that_nobody_has_do_not(project: Path, tmp_path: Path) -> None:
    dvc(project, "remote", "modify", "store", "url", str(tmp_path / "empty"))
    (project / "one.txt").unlink()
    shutil.rmtree(project / ".dvc" / "cache")
    assert not dag.is_up_to_date("one")


def test_inputs_that_are_not_the_producers_last_output_make_a_stage_stale(project: Path) -> None:
    (project / "two.txt").unlink()
    entries = lockfile.read_entries(["one"])
    entries["one"]["outs"][0]["md5"] = "0" * 32
    lockfile.merge_entries(entries)
    assert not dag.is_up_to_date("two")


def test_entries_bring_another_clone_exactly_the_inputs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = lockfile.read_entries(["one", "never"])
    assert list(entries) == ["one"]
    clone = tmp_path / "clone"
    git(project, "clone", "--quiet", ".", str(clone))
    (clone / "dvc.lock").unlink()
    (clone / "one.txt").write_text("last week's")
    enter(clone, monkeypatch)
    lockfile.merge_entries(entries)
    lockfile.pull_inputs("two")
    assert (clone / "one.txt").read_text() == "one\n"
    assert not (clone / "two.txt").exists()


def test_inputs_that_are_there_are_not_asked_of_the_store(project: Path, tmp_path: Path) -> None:
    dvc(project, "remote", "modify", "store", "url", str(tmp_path / "empty"))
    shutil.rmtree(project / ".dvc" / "cache")
    lockfile.pull_inputs("two")
    (project / "one.txt").unlink()
    (project / "one.txt").write_text("last week's")
    with pytest.raises(DvcException):
        lockfile.pull_inputs("two")


def test_outputs_of_an_earlier_run_are_replaced_by_those_of_another_machine(project: Path) -> None:
    (project / "two.txt").unlink()
    (project / "two.txt").write_text("an earlier run's")
    lockfile.bring_outputs(["one", "two"], missing=False)
    assert (project / "two.txt").read_text() == "one\none\n"
    assert dag.is_up_to_date("two")


def test_missing_outputs_are_brought_only_where_they_are_wanted(project: Path) -> None:
    (project / "two.txt").unlink()
    lockfile.bring_outputs(["two"], missing=False)
    assert not (project / "two.txt").exists()
    lockfile.bring_outputs(["two"], missing=True)
    assert (project / "two.txt").read_text() == "one\none\n"


def test_merging_what_is_there_leaves_the_file_alone(project: Path) -> None:
    before = (project / "dvc.lock").stat().st_mtime_ns
    lockfile.merge_entries(lockfile.read_entries(["one", "two"]))
    assert (project / "dvc.lock").stat().st_mtime_ns == before


def test_merges_at_the_same_time_lose_nothing(project: Path) -> None:
    (entry,) = lockfile.read_entries(["one"]).values()
    names = [f"stage{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: lockfile.merge_entries({name: entry}), names))
    assert sorted(lockfile.read_entries(names)) == sorted(names)
    assert project.exists()
