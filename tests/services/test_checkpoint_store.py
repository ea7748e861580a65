"""Checkpoints in a real object store: a training goes on where only the store knows of it, and without the store."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from components.training.store import ObjectStore, StoreError
from tests.services.conftest import BUCKET
from tests.trainings import BLOCK, Place, make_place

pytestmark = pytest.mark.timeout(1800)
"""Many processes are started, each of which takes seconds to load."""

URL = f"s3://{BUCKET}/some/prefix"


@pytest.mark.usefixtures("store_environment")
def test_objects_are_written_listed_read_and_removed() -> None:
    objects = ObjectStore(URL + "/objects/")
    content = os.urandom(3 * 2**20)
    for name in ("gan/a", "gan/b", "gan-two/c"):
        objects.put(name, content + name.encode())
    assert sorted(objects.names("gan/")) == ["gan/a", "gan/b"]
    assert objects.get("gan/a") == content + b"gan/a"
    assert objects.get("gan/none") is None
    assert all(abs(time.time() - when.timestamp()) < 600 for when in objects.names("").values())
    objects.delete(["gan/a", "gan/none"])
    assert sorted(objects.names("")) == ["gan-two/c", "gan/b"]
    objects.delete([])


@pytest.mark.usefixtures("store_environment")
def test_a_store_that_refuses_or_does_not_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="NoSuchBucket"):
        ObjectStore("s3://no-such-bucket/x").names("")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
            ObjectStore(URL).get("a")
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StoreError, match="credentials"):
            ObjectStore(URL).get("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        ObjectStore(URL).names("")
    assert time.monotonic() - started < 30


def test_another_clone_that_has_only_the_store_goes_on_in_the_same_run(
    store_environment: dict[str, str], tmp_path: Path
) -> None:
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**store_environment, "VITRINE_CHECKPOINTS": URL}
    # Nothing answers there.
    silent = {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    whole = make_place(tmp_path / "whole", "gan", tracking, **silent)
    whole.train()
    assert re.search(r"warning: .*127.0.0.1:9.*is on this machine alone; the training goes on", whole.log)

    one, two, three = (
        make_place(tmp_path / name, "gan", tracking, **environment, OMP_NUM_THREADS="1")
        for name in ("one", "two", "three")
    )
    objects = ObjectStore(URL)
    kill_when_stored(one, objects, 8 * BLOCK)
    newest = stored_steps(objects)[-1]
    kill_when_stored(two, objects, newest + 4 * BLOCK)
    assert f"goes on after step {newest} " in two.log
    assert two.run_id == one.run_id

    *_, before, newest = stored_steps(objects)
    (name,) = (name for name in objects.names("gan-") if name.endswith(f"{newest:09d}.ckpt"))
    content = objects.get(name)
    assert content is not None
    objects.put(name, content[: len(content) // 2])
    three.train()
    assert re.search(rf"warning: .*{newest:09d}.json: {len(content) // 2} bytes.*of the store is not used", three.log)
    assert f"goes on after step {before} " in three.log
    assert three.run_id == one.run_id
    assert three.outputs() == whole.outputs()

    # That it has ended is known everywhere: the first clone begins anew.
    (note,) = (name for name in objects.names("gan-") if name.endswith("/run.json"))
    assert json.loads(objects.get(note) or b"")["finished"]
    process = one.start()
    while one.run_id == three.run_id:
        assert process.poll() is None, one.log
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "goes on after" not in one.log


def stored_steps(objects: ObjectStore) -> list[int]:
    """Steps of the checkpoints in the store, ascending."""
    found: Any = (re.search(r"step-(\d+)\.json$", name) for name in objects.names("gan-"))
    return sorted(int(match.group(1)) for match in found if match)


def kill_when_stored(place: Place, objects: ObjectStore, step: int) -> None:
    """Trains until the store has a checkpoint of this step or a later one."""
    process = place.start()
    while max(stored_steps(objects), default=0) < step:
        assert process.poll() is None, place.log
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
