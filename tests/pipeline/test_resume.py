"""Trainings that are killed at random moments, as processes of their own, and end as if nothing had been."""

import random
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.forked import Program
from tests.trainings import BLOCK, BLOCKS, Place, make_place

KILLS = {"gan": 3, "vae": 1}
"""Times that a training is killed with SIGKILL, besides once before the first checkpoint and once with SIGTERM."""

pytestmark = pytest.mark.timeout(1800)
"""Many processes are started, each of which takes seconds to load."""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


def wait_until(process: Program, place: Place, step: int, seconds: float = 300) -> None:
    """Until there is a checkpoint of a step; the process must not end before."""
    deadline = time.monotonic() + seconds
    while place.last_step < step:
        assert process.poll() is None, place.log
        assert time.monotonic() < deadline, place.log
        time.sleep(0.005)


def killed(place: Place, number: signal.Signals, step: int, delay: float) -> None:
    """Starts the training and kills it so long after the checkpoint of a step."""
    process = place.start()
    wait_until(process, place, step)
    time.sleep(delay)
    process.send_signal(number)
    status = process.wait(timeout=60)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM), place.log


def points(client: MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of the training's metrics, in the order in which they were logged."""
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith("train/")]
    return {name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)] for name in names}


def grids(client: MlflowClient, run_id: str) -> list[int]:
    """Steps of the grids that the run's page shows: by their smaller copies, which MLflow writes last.

    A kill between the two leaves a large one alone, and the grid is logged once more.
    """
    files = [file.path for file in client.list_artifacts(run_id, "images")]
    return sorted(int(path.split("+")[2]) for path in files if path.endswith("compressed.webp"))


@pytest.mark.parametrize("family", list(KILLS))
def test_killed_again_and_again_it_ends_with_the_same_bytes_in_the_same_run(
    family: str, tracking: str, tmp_path: Path
) -> None:
    whole = make_place(tmp_path / "whole", family, tracking, OMP_NUM_THREADS="1")
    whole.train()
    place = make_place(tmp_path / "killed", family, tracking, OMP_NUM_THREADS="1")
    seed = random.SystemRandom().randrange(10**6)
    print("kill points of seed", seed)
    chance = random.Random(seed)

    # Before the first checkpoint: nothing but the run's id is known.
    process = place.start()
    while not (place.folder / "r/run.json").exists():
        assert process.poll() is None, place.log
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_id = place.run_id
    for _ in range(KILLS[family]):
        after = place.last_step + 2 * BLOCK * chance.randint(1, 3)
        killed(place, signal.SIGKILL, after, delay=chance.uniform(0, 0.3))
        assert place.run_id == run_id
    killed(place, signal.SIGTERM, place.last_step + 2 * BLOCK, delay=0)
    client = MlflowClient(tracking)
    assert client.get_run(run_id).info.status == "KILLED"
    place.train()

    assert place.outputs() == whole.outputs()
    assert place.run_id == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["vitrine.resumed"] == str(KILLS[family] + 2)
    assert points(client, run_id) == points(client, whole.run_id)
    assert grids(client, run_id) == grids(client, whole.run_id) != []
    assert "train/val_fd_efflite0" in run.data.metrics

    # Once more with the same settings: a training of its own.
    place.train()
    assert place.run_id != run_id
    assert place.outputs() == whole.outputs()
    assert sorted(path.name for path in place.folder.glob(".vitrine/checkpoints/*/*/*")) == [
        f"step-{BLOCKS * BLOCK:09d}.ckpt",
        f"step-{BLOCKS * BLOCK:09d}.json",
    ]
