"""What every family under components/models/ must do; a new one is tested by being there."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from components.dataset import DatasetInfo, load_info, load_split
from components.errors import InputError
from components.generative import GenerativeModel, Reconstructs, build, load_model, save_model
from components.images import to_float
from components.models import available_models, family_settings
from components.training.batches import StepBlocks, training_images
from components.training.module import TrainingModule
from tests.prepared import CATEGORIES, without_conditions, write_prepared
from tests.small import small_settings, trained


@pytest.fixture(params=available_models())
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def dataset(folder: Path, **options: Any) -> DatasetInfo:
    return load_info(write_prepared(folder / "prepared", **options))


def fitted(family: str, folder: Path) -> GenerativeModel:
    """The family's model after a few real steps through Lightning."""
    info = dataset(folder)
    torch.manual_seed(0)
    return trained(build(family, small_settings(family), info), folder / "prepared")


def draw(model: GenerativeModel, seed: int = 3) -> Tensor:
    conditions = torch.arange(len(CATEGORIES))[:, None]
    return model.sample(conditions, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 32), (3, 64)])
def test_samples_have_the_shape_and_range_of_the_images(family: str, channels: int, size: int, tmp_path: Path) -> None:
    info = dataset(tmp_path, channels=channels, size=size)
    images = draw(build(family, small_settings(family), info).eval())
    assert images.shape == (len(CATEGORIES), channels, size, size)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1


def test_same_seed_same_samples_another_seed_others(family: str, tmp_path: Path) -> None:
    model = fitted(family, tmp_path)
    torch.testing.assert_close(draw(model), draw(model), rtol=0, atol=0)
    assert not torch.equal(draw(model), draw(model, seed=4))


def test_a_sample_is_generated_from_its_latent(family: str, tmp_path: Path) -> None:
    model = fitted(family, tmp_path)
    conditions = torch.arange(len(CATEGORIES))[:, None]
    latents = model.draw_latents(conditions, torch.Generator().manual_seed(3))
    assert latents.shape[0] == len(CATEGORIES)
    assert latents.ndim == 2
    torch.testing.assert_close(model.generate(latents, conditions), draw(model), rtol=0, atol=0)
    # One by one, so that latents of a way between two can be generated in any chunks.
    alone = [model.generate(latents[row : row + 1], conditions[row : row + 1]) for row in range(len(CATEGORIES))]
    torch.testing.assert_close(torch.cat(alone), draw(model), rtol=1e-4, atol=1e-5)


def test_the_way_between_two_latents_begins_and_ends_at_them(family: str, tmp_path: Path) -> None:
    model = fitted(family, tmp_path)
    conditions = torch.zeros(2, 1, dtype=torch.int64)
    first, second = (model.draw_latents(conditions, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    way = model.interpolate(first, second, torch.linspace(0, 1, 5))
    assert way.shape == (2, 5, first.shape[1])
    torch.testing.assert_close(way[:, 0], first)
    torch.testing.assert_close(way[:, -1], second)


def test_conditions_matter(family: str, tmp_path: Path) -> None:
    model = fitted(family, tmp_path)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    one, other = (model.sample(torch.tensor([[c]]), g) for c, g in zip((0, 1), generators, strict=True))
    assert not torch.equal(one, other)


def test_without_conditions_it_is_trained_saved_and_loaded(family: str, tmp_path: Path) -> None:
    info = load_info(without_conditions(write_prepared(tmp_path / "prepared")))
    torch.manual_seed(0)
    model = trained(build(family, small_settings(family), info), tmp_path / "prepared")
    split = load_split(tmp_path / "prepared", "train")
    model.fit_sampling(lambda: training_images(split, torch.device("cpu")))
    save_model(model, family, small_settings(family), info, tmp_path / "saved")
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    nothing = torch.zeros(4, 0, dtype=torch.int64)
    drawn, again = model.sample(nothing, generators[0]), load_model(tmp_path / "saved").sample(nothing, generators[1])
    torch.testing.assert_close(again, drawn, rtol=0, atol=0)
    assert drawn.shape == (4, 1, 32, 32)
    assert len({image.numpy().tobytes() for image in drawn}) == 4


def test_one_step_changes_every_trained_weight(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(family, small_settings(family), dataset(tmp_path))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True, max_epochs=1)
    blocks = StepBlocks(
        load_split(tmp_path / "prepared", "train"), torch.device("cpu"), batch_size=24, steps=3, block=3, seed=1
    )
    trainer.fit(TrainingModule(model), DataLoader(blocks, batch_size=None))
    unchanged = [
        name for name, weight in model.named_parameters() if name in before and torch.equal(weight, before[name])
    ]
    # A relativistic loss looks at differences of logits alone: what shifts them all has no gradient.
    shifts = {"discriminator.head.bias"} if getattr(model.settings, "loss", None) == "relativistic" else set()
    assert set(unchanged) <= shifts


def test_two_trainings_with_one_seed_are_the_same(family: str, tmp_path: Path) -> None:
    one = fitted(family, tmp_path / "one").sampling_state()
    two = fitted(family, tmp_path / "two").sampling_state()
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], rtol=0, atol=0)


def test_saved_and_loaded_it_gives_the_same_samples(family: str, tmp_path: Path) -> None:
    model = fitted(family, tmp_path)
    save_model(model, family, small_settings(family), load_info(tmp_path / "prepared"), tmp_path / "saved")
    torch.testing.assert_close(draw(load_model(tmp_path / "saved")), draw(model), rtol=0, atol=0)


def test_saved_weights_hold_no_pickle(family: str, tmp_path: Path) -> None:
    model = build(family, small_settings(family), dataset(tmp_path))
    save_model(model, family, small_settings(family), load_info(tmp_path / "prepared"), tmp_path / "saved")
    assert sorted(file.name for file in (tmp_path / "saved").iterdir()) == ["model.json", "weights.safetensors"]


def test_reconstructions_have_the_images_shape(family: str, tmp_path: Path) -> None:
    model = fitted(family, tmp_path)
    if not isinstance(model, Reconstructs):
        pytest.skip(f"{family} does not encode images")
    split = load_split(tmp_path / "prepared", "test")
    images = to_float(torch.from_numpy(split.gather(np.arange(4))))
    reconstructions = model.reconstruct(images, torch.from_numpy(split.conditions_NA[:4]))
    assert reconstructions.shape == images.shape
    assert reconstructions.abs().max() <= 1


def test_altered_weights_are_refused(family: str, tmp_path: Path) -> None:
    model = build(family, small_settings(family), dataset(tmp_path))
    save_model(model, family, small_settings(family), load_info(tmp_path / "prepared"), tmp_path / "saved")
    path = tmp_path / "saved" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.safetensors: SHA-256 is .*, model\.json says"):
        load_model(tmp_path / "saved")


def test_unknown_key_is_named(family: str) -> None:
    raw = small_settings(family).model_dump(mode="json") | {"learning_rat": 1}
    with pytest.raises(InputError, match=f"train.{family}.*\n.*learning_rat: unknown key, found 1"):
        family_settings(family, raw)


def test_a_full_disk_is_the_systems_own_error(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`explained_errors` tells it in a line; safetensors' own writer would hide it."""

    def full(_: Path, __: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = build(family, small_settings(family), dataset(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_model(model, family, small_settings(family), load_info(tmp_path / "prepared"), tmp_path / "saved")
    assert list((tmp_path / "saved").iterdir()) == []
