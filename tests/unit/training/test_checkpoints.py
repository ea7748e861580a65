"""Checkpoints as files, and the shelf that keeps them in two places."""

import errno
import io
import json
import os
import pickle
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from filelock import FileLock

from components.errors import InputError
from components.training import checkpoints, shelf, tidying
from components.training.checkpoints import DamagedError, State, load_checkpoint
from components.training.shelf import Shelf
from components.training.store import ObjectStore, StoreError, store_from_environment
from components.training.uploads import Uploads

FINGERPRINT = "0123456789abcdef" * 4


def state_of(step: int) -> State:
    weights = torch.full((3, 2), float(step)).to(torch.bfloat16)
    return {"step": step, "images": 10 * step, "ended": False, "model": {"w": weights}, "optimizers": [], "n": [1.5]}


class FakeStore(ObjectStore):
    """Objects in a dict: what `tests/services/test_checkpoint_store.py` tries with a real store."""

    def __init__(self) -> None:
        self.url = "s3://bucket/prefix"
        self.objects: dict[str, bytes] = {}
        self.times: dict[str, datetime] = {}
        self.broken = False
        self.clock = datetime.now(UTC) - timedelta(minutes=10)

    def put(self, name: str, content: bytes) -> None:
        self._answer()
        self.clock += timedelta(seconds=1)
        self.objects[name], self.times[name] = content, self.clock

    def get(self, name: str) -> bytes | None:
        self._answer()
        return self.objects.get(name)

    def names(self, beginning: str) -> dict[str, datetime]:
        self._answer()
        return {name: self.times[name] for name in self.objects if name.startswith(beginning)}

    def delete(self, names: Sequence[str]) -> None:
        self._answer()
        for name in names:
            self.objects.pop(name, None)

    def _answer(self) -> None:
        if self.broken:
            raise StoreError("s3://bucket/prefix: no answer")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def make(root: Path, store: FakeStore | None = None, keep: int = 2, family: str = "gan") -> Shelf:
    return Shelf(family, FINGERPRINT, keep, store, root / ".vitrine/checkpoints")


def begun(root: Path, store: FakeStore | None, steps: Sequence[int], run_id: str = "run") -> Shelf:
    """A training that was killed after these checkpoints."""
    made = make(root, store)
    with made.opened():
        made.note_run(run_id)
        for step in steps:
            made.put(state_of(step))
            made._uploads.wait()
    return made


def resumed(root: Path, store: FakeStore | None = None) -> tuple[int | None, str | None]:
    """The step that another process would go on from, and its run."""
    made = make(root, store)
    with made.opened():
        state = made.latest()
        return None if state is None else state["step"], made.attempt.run_id


def test_a_state_comes_back_as_it_was() -> None:
    state = state_of(7)
    content = checkpoints.encode(state)
    manifest = checkpoints.manifest_of(content, state, "run")
    assert (manifest.step, manifest.images, manifest.size, manifest.run_id) == (7, 70, len(content), "run")
    back = checkpoints.decode(content, manifest, "here")
    assert back.pop("format") == 1
    torch.testing.assert_close(back.pop("model"), state.pop("model"), rtol=0, atol=0)
    assert back == state


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_bytes_that_were_not_written_are_never_given_to_torch(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = checkpoints.encode(state_of(1))
    manifest = checkpoints.manifest_of(content, state_of(1), "run")
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    damaged = {"cut": content[:-1], "flip": bytes(flipped), "empty": b"", "other": checkpoints.encode(state_of(2))}
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read before it was checked"))
    with pytest.raises(DamagedError, match="SHA-256"):
        checkpoints.decode(damaged[damage], manifest, "here")


def test_a_checkpoint_cannot_run_code() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, ("/nonexistent/evil",)

    buffer = io.BytesIO()
    torch.save({"format": 1, "model": Evil()}, buffer)
    manifest = checkpoints.manifest_of(buffer.getvalue(), state_of(1), "run")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpoints.decode(buffer.getvalue(), manifest, "here")


def test_load_checkpoint_tells_what_is_wrong(tmp_path: Path) -> None:
    made = begun(tmp_path, None, [5])
    path = made.newest_path()
    assert path is not None
    assert load_checkpoint(path)["step"] == 5
    with pytest.raises(InputError, match=r"no-such\.json: No such file"):
        load_checkpoint(tmp_path / "no-such.ckpt")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"SHA-256 .*take another checkpoint"):
        load_checkpoint(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match="no manifest"):
        load_checkpoint(path)


def test_only_the_newest_are_kept_in_both_places(tmp_path: Path, store: FakeStore) -> None:
    made = begun(tmp_path, store, [1, 2, 3, 4])
    expected = {"step-000000003.ckpt", "step-000000003.json", "step-000000004.ckpt", "step-000000004.json"}
    assert {path.name for path in made.folder.iterdir()} == expected
    assert {name.rpartition("/")[2] for name in store.objects} == expected | {"run.json"}
    assert resumed(tmp_path, store) == (4, "run")


def test_what_a_killed_process_left_half_written_is_not_taken_and_goes(tmp_path: Path) -> None:
    made = begun(tmp_path, None, [1])
    (made.folder / "step-000000002.ckpt").write_bytes(b"whole or not, it has no manifest")
    (made.folder / ".step-000000003.ckpt.abc").write_bytes(b"half")
    assert resumed(tmp_path) == (1, "run")
    with (again := make(tmp_path)).opened():
        again.put(state_of(3))
    assert {path.name.partition(".")[0] for path in made.folder.iterdir()} == {"step-000000001", "step-000000003"}


@pytest.mark.parametrize(
    "wrong", [{"step": "2"}, {"step": None}, {"sha256": None}, {"size": 1.5}, {"time": "x"}, {"run_id": 5}, {"more": 1}]
)
def test_a_manifest_with_values_of_another_type_gives_way_to_the_one_before(
    tmp_path: Path, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = begun(tmp_path, None, [1, 2]).folder / "step-000000002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert resumed(tmp_path) == (1, "run")
    said = capsys.readouterr().out
    assert f"step-000000002.json: no manifest of a checkpoint: {next(iter(wrong))}: " in said


@pytest.mark.parametrize("wrong", [{"attempt": None}, {"started": "x"}, {"run_id": 5}, {"finished": "no"}])
def test_an_attempt_with_values_of_another_type_is_taken_from_the_store(
    tmp_path: Path, store: FakeStore, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = begun(tmp_path, store, [1, 2]).folder.parent / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert resumed(tmp_path, store) == (2, "run")
    assert f"run.json is damaged ({next(iter(wrong))}: " in capsys.readouterr().out
    assert resumed(tmp_path) == (None, None), "nothing but the damaged one: from the start"


@pytest.mark.parametrize("damage", ["cut", "missing", "manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = begun(tmp_path, None, [1, 2])
    path = made.folder / "step-000000002.ckpt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    else:
        path.with_suffix(".json").write_text('{"step": 2')
    assert resumed(tmp_path) == (1, "run")
    said = capsys.readouterr().out
    assert "gan: warning:" in said
    assert "step-000000002" in said
    assert "damaged and not used" in said


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(tmp_path: Path) -> None:
    """With one that is kept: the new one, of a lower step, and not the damaged one."""
    made = begun(tmp_path, None, [1, 5])
    (made.folder / "step-000000005.ckpt").write_bytes(b"damaged")
    with (again := make(tmp_path, keep=1)).opened():
        again.put(state_of(2))
    assert resumed(tmp_path) == (2, "run")


def test_all_damaged_means_from_the_start_in_the_same_run(tmp_path: Path) -> None:
    made = begun(tmp_path, None, [1, 2])
    for path in made.folder.glob("*.ckpt"):
        path.write_bytes(b"")
    assert resumed(tmp_path) == (None, "run")


def test_another_clone_goes_on_from_the_store_alone(tmp_path: Path, store: FakeStore) -> None:
    begun(tmp_path / "one", store, [1, 2])
    assert resumed(tmp_path / "two", store) == (2, "run")
    # It has it now, whatever becomes of the store.
    store.broken = True
    here = make(tmp_path / "two", store)
    here.attempt = make_attempt(store)
    state = here.latest()
    assert state is not None
    assert state["step"] == 2


def make_attempt(store: FakeStore) -> shelf.Attempt:
    (content,) = (content for name, content in store.objects.items() if name.endswith("run.json"))
    return shelf.Attempt(**json.loads(content))


def test_a_damaged_checkpoint_here_is_taken_from_the_store(tmp_path: Path, store: FakeStore) -> None:
    made = begun(tmp_path, store, [1, 2])
    (made.folder / "step-000000002.ckpt").write_bytes(b"damaged")
    assert resumed(tmp_path, store) == (2, "run")
    assert resumed(tmp_path) == (2, "run"), "and mended here"


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_checkpoint_damaged_in_the_store_gives_way_to_the_one_before(
    tmp_path: Path, store: FakeStore, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path / "one", store, [1, 2])
    (name,) = (name for name in store.objects if name.endswith("2.ckpt"))
    if damage == "cut":
        store.objects[name] = store.objects[name][:-1]
    elif damage == "gone":
        del store.objects[name]
    else:
        store.objects[name.replace(".ckpt", ".json")] = b"<html>"
    assert resumed(tmp_path / "two", store) == (1, "run")
    assert "this checkpoint of the store is not used" in capsys.readouterr().out


def test_killed_before_its_first_checkpoint_it_has_its_run(tmp_path: Path, store: FakeStore) -> None:
    begun(tmp_path / "one", store, [])
    assert resumed(tmp_path / "one") == (None, "run")
    assert resumed(tmp_path / "two", store) == (None, "run")


def test_a_store_that_fails_loses_nothing_here_and_gets_what_comes_later(
    tmp_path: Path, store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.broken = True
    made = begun(tmp_path, store, [1])
    said = capsys.readouterr().out
    assert said.count("no answer") >= 3
    assert "the checkpoint of step 1 is on this machine alone; the training goes on" in said
    assert resumed(tmp_path, store) == (1, "run")
    with (again := make(tmp_path, store)).opened():
        store.broken = False
        again.put(state_of(2))
    assert resumed(tmp_path / "two", store) == (2, "run")
    assert again.attempt == made.attempt


def test_a_finished_training_begins_anew(tmp_path: Path, store: FakeStore) -> None:
    made = begun(tmp_path / "one", store, [1, 2])
    begun(tmp_path / "two", store, [3])
    with (last := make(tmp_path / "one", store)).opened():
        assert last.latest() is not None
        last.finish()
    assert [path.name for path in sorted(made.folder.iterdir())] == ["step-000000003.ckpt", "step-000000003.json"]
    assert sum(name.endswith(".ckpt") for name in store.objects) == 1
    for clone in ("one", "two", "three"):
        assert resumed(tmp_path / clone, store) == (None, None), clone
    # The new one's checkpoints and the old one's do not mix, and its end removes the old ones.
    begun(tmp_path / "one", store, [1], run_id="next")
    assert resumed(tmp_path / "one", store) == (1, "next")
    with (last := make(tmp_path / "one", store)).opened():
        last.finish()
    assert len(list((tmp_path / "one").glob(".vitrine/checkpoints/gan-*/*/*.ckpt"))) == 1
    assert {name.rpartition("/")[2] for name in store.objects} == {
        "run.json",
        "step-000000001.ckpt",
        "step-000000001.json",
    }


def test_a_training_begun_without_the_store_is_newer_than_what_it_holds(tmp_path: Path, store: FakeStore) -> None:
    begun(tmp_path / "one", store, [1], run_id="old")
    time.sleep(0.01)
    begun(tmp_path / "two", None, [4], run_id="new")
    assert resumed(tmp_path / "two", store) == (4, "new")


def test_a_damaged_note_means_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = begun(tmp_path, None, [1])
    (made.folder.parent / "run.json").write_text('{"attempt"')
    assert resumed(tmp_path) == (None, None)
    assert "run.json is damaged" in capsys.readouterr().out


def test_two_processes_do_not_train_the_same(tmp_path: Path) -> None:
    with make(tmp_path).opened(), pytest.raises(RuntimeError, match="another process trains the same 'gan'"):
        resumed(tmp_path)


def test_a_full_disk_is_told_and_the_training_goes_on(
    tmp_path: Path, store: FakeStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begun(tmp_path, store, [1])
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if ".ckpt" in path.name:
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, content)

    with (again := make(tmp_path, store)).opened():
        monkeypatch.setattr(Path, "write_bytes", full)
        again.put(state_of(2))
        monkeypatch.undo()
    assert "step 2 cannot be written: [Errno 28] No space left on device; the training goes on" in (
        capsys.readouterr().out
    )
    assert sorted(path.name for path in made.folder.iterdir()) == ["step-000000001.ckpt", "step-000000001.json"]
    assert resumed(tmp_path) == (1, "run")
    assert resumed(tmp_path / "two", store) == (2, "run"), "the store had room"


def test_old_trainings_of_the_family_go_but_for_the_newest(tmp_path: Path, store: FakeStore) -> None:
    root = tmp_path / ".vitrine/checkpoints"
    names = [f"gan-{number:016x}" for number in range(5)] + ["gan_two-0000000000000000", "vae-0000000000000000"]
    for age, name in enumerate(names):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (time.time() - 1000 + age,) * 2)
        store.put(f"{name}/run.json", b"{}")
        # The second is not among the newest two, but was written to within a day.
        store.times[f"{name}/run.json"] -= timedelta(hours={0: 48, 1: 1, 2: 48}.get(age, 0))
    with FileLock(root / f"{names[2]}.lock"), make(tmp_path, store).opened():
        pass
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == sorted(names[2:])
    kept = {name.partition("/")[0] for name in store.objects}
    assert kept == {names[1], names[3], names[4], *names[5:]}
    assert tidying.OTHERS_KEPT == 2


def test_of_what_waits_to_be_uploaded_the_newest_goes() -> None:
    sent: list[int] = []
    gate = Gate()

    def send(item: int) -> None:
        gate.wait()
        sent.append(item)

    uploads = Uploads(send)
    for item in range(5):
        uploads.offer(item)
        if item == 0:
            gate.reached()
    gate.open()
    uploads.wait()
    assert sent == [0, 4]
    uploads.offer(9)
    uploads.wait()
    assert sent == [0, 4, 9]


class Gate:
    """A gate that says when somebody stands before it."""

    def __init__(self) -> None:
        self._here, self._open = Event(), Event()

    def wait(self) -> None:
        self._here.set()
        assert self._open.wait(10)

    def reached(self) -> None:
        assert self._here.wait(10)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize("url", ["vitrine/checkpoints", "https://x/y", "s3://"])
def test_a_place_of_another_form_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CHECKPOINTS", url)
    with pytest.raises(InputError, match=r"VITRINE_CHECKPOINTS: found .*give s3://BUCKET/PREFIX"):
        store_from_environment()


def test_no_place_means_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_CHECKPOINTS", raising=False)
    assert store_from_environment() is None


@pytest.fixture(autouse=True)
def _nothing_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
