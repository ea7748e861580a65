import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from components.dataset import Split
from components.errors import InputError
from components.feature_cache import KEPT, Tensors, cached, cached_features
from components.features import FeatureExtractor, Features, Seen
from components.protocol import VERSION

ROOT = Path(__file__).parents[2]


class Counting(FeatureExtractor):
    """Features are mean and deviation of the pixels; counts the images it has seen."""

    name, num_features, resolution, resize, weights_sha256 = "counting", 2, 32, "none", "0" * 64

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def compute(self, images_NCHW: Tensor) -> Seen:
        self.images += len(images_NCHW)
        pixels = images_NCHW.float().flatten(1)
        features_ND = torch.stack([pixels.mean(dim=1), pixels.std(dim=1)], dim=1)
        return Seen(features_ND, 3 * features_ND, (features_ND[:, :, None, None],))


def images_of(numbers: list[int]) -> np.ndarray:
    return np.stack([np.random.default_rng(number).integers(0, 256, (1, 8, 8), dtype=np.uint8) for number in numbers])


def features(
    numbers: list[int], network: FeatureExtractor, name: str = "train", digest: str | None = None, **options: bool
) -> Features:
    split = Split((images_of(numbers),), pd.DataFrame({"id": [str(number) for number in numbers]}), {})
    digest = digest or "-".join(map(str, numbers))
    return cached_features(
        network, split, np.arange(len(numbers)), dataset_digest=digest, name=name, batch_size=4, **options
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def compute(_: Tensors | None) -> Tensors:
    return {"a": torch.arange(6.0), "b": torch.ones(2, 2, dtype=torch.int64)}


def test_are_computed_once(cache: Path) -> None:
    network = Counting()
    first, second = (features([1, 2, 3], network, logits=True, pairs=True) for _ in range(2))
    assert network.images == 4  # an odd one is its own pair
    assert torch.equal(first.features_ND, second.features_ND)
    assert first.features_ND.shape == (3, 2)
    assert first.pair_distances.shape == (1,)
    assert_close(first.logits_NK, 3 * first.features_ND)
    assert [path.suffix for path in cache.iterdir() if path.suffix != ".lock"] == [".safetensors"]


def test_only_new_photos_are_computed() -> None:
    network, plain = Counting(), Counting()
    features([1, 2, 3, 4], network)
    assert network.images == 4
    found = features([5, 3, 1, 1, 6], network)
    assert network.images == 6
    assert_close(found.features_ND, plain(torch.from_numpy(images_of([5, 3, 1, 1, 6])))[0])
    features([1, 3], network)
    assert network.images == 6
    features([5, 3, 1, 1, 6], network)  # used last, and holds a photo twice
    assert_close(features([7, 1], network).features_ND, plain(torch.from_numpy(images_of([7, 1])))[0])
    assert network.images == 7
    assert found.logits_NK.shape == (5, 0)
    assert found.pair_distances.shape == (0,)


def test_only_new_pairs_are_computed() -> None:
    network = Counting()
    features([1, 2, 3, 4, 5], network, pairs=True)
    assert network.images == 6
    found = features([3, 4, 1, 5, 5], network, pairs=True)  # 1 was seen, but not with 5
    assert network.images == 8
    expected = features([3, 4, 1, 5, 5], Counting(), pairs=True, logits=True)
    assert_close(found.features_ND, expected.features_ND)
    assert_close(found.pair_distances, expected.pair_distances)
    assert len(found.pair_distances) == 2


def test_other_networks_share_nothing() -> None:
    network, other = Counting(), Counting()
    other.weights_sha256 = "1" * 64
    features([1, 2], network)
    features([1, 2], other)
    assert other.images == 2
    other.resolution = 64
    features([1, 2], other)
    assert other.images == 4
    other.resize = "bicubic"
    features([1, 2], other)
    assert other.images == 6


def test_what_was_kept_for_another_use_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Counting()
    features([1, 2], network)
    assert features([1, 2], network, logits=True).logits_NK.shape == (2, 2)
    assert features([1, 2], network, pairs=True).pair_distances.shape == (1,)
    # The same rows of the same dataset, in another split.
    found = features([3, 4], network, name="test", digest="1-2")
    assert_close(found.features_ND, Counting()(torch.from_numpy(images_of([3, 4])))[0])
    seen = network.images
    monkeypatch.setattr("components.feature_cache.VERSION", VERSION + 1)
    features([1, 2], network)
    assert network.images == seen + 2


def test_files_used_last_stay(cache: Path) -> None:
    cached({"of": "x"}, {"dataset": "0"}, compute)
    for number in range(1, KEPT + 3):
        cached({"of": "x"}, {"dataset": str(number)}, compute)
        cached({"of": "x"}, {"dataset": "0"}, lambda _: pytest.fail("was not kept"))
        cached({"of": "other"}, {"dataset": "0"}, compute)
    assert len(list(cache.glob("*.safetensors"))) == KEPT + 1


@pytest.mark.parametrize("damage", ["flip", "rename", "truncate", "empty", "other"])
def test_a_damaged_file_is_computed_again(cache: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def counted(earlier: Tensors | None) -> Tensors:
        calls.append(1)
        return compute(earlier)

    cached({"of": "x"}, {"dataset": "a"}, counted)
    (path,) = cache.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    elif damage == "rename":
        content = content.replace(b'"b":', b'"c":')
    elif damage == "truncate":
        del content[-20:]
    elif damage == "empty":
        content.clear()
    else:
        cached({"of": "x"}, {"dataset": "b"}, compute)
        (other,) = (found for found in cache.glob("*.safetensors") if found != path)
        content = bytearray(other.read_bytes())
    path.write_bytes(content)
    found = cached({"of": "x"}, {"dataset": "a"}, counted)
    assert torch.equal(found["a"], torch.arange(6.0))
    assert len(calls) == 2
    assert f"{path}: damaged" in capsys.readouterr().out
    cached({"of": "x"}, {"dataset": "a"}, counted)
    assert len(calls) == 2


def test_a_damaged_earlier_file_is_not_reused(cache: Path) -> None:
    network = Counting()
    features([1, 2], network)
    (path,) = cache.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    features([1, 2, 3], network)
    assert network.images == 5


def test_a_failed_computation_leaves_no_file(cache: Path) -> None:
    def fail(_: Tensors | None) -> Tensors:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached({"of": "x"}, {}, fail)
    assert not list(cache.glob("*.safetensors"))
    assert torch.equal(cached({"of": "x"}, {}, compute)["a"], torch.arange(6.0))


def test_an_unusable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/features: cannot be written .* VITRINE_CACHE"):
        cached({"of": "x"}, {}, compute)


PROCESS = """
import json, sys, time
from pathlib import Path
import torch
from components.feature_cache import cached
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready-{name}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
def compute(earlier):
    (folder / f"computed-{name}").touch()
    time.sleep(2)
    return {"a": torch.arange(6.0)}
print(json.dumps(cached({"of": "x"}, {}, compute)["a"].tolist()))
"""


def test_two_processes_at_once_compute_once(tmp_path: Path) -> None:
    environment = {**os.environ, "VITRINE_CACHE": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), name],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("gan", "vae")
    ]
    printed = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert [json.loads(lines[-1]) for lines in printed] == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]] * 2
    assert len(list(tmp_path.glob("computed-*"))) == 1
    assert sum("waiting for another process" in "".join(lines) for lines in printed) == 1
