"""Augmentation against formulas written anew in NumPy and SciPy, from the numbers that it draws."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.testing import assert_close

from components.augment import DRAWS, augment, check_augment, contact_sheet, is_off
from components.dataset import AttributeValues, load_split
from components.errors import InputError
from components.settings import AugmentSettings
from components.sheets import GAP, MARGIN
from components.training.draws import Draws, whole_batch
from tests.prepared import CATEGORIES, without_conditions, write_prepared

ZEROS: dict[str, Any] = {
    "flip": 0.0,
    "flip_not": {},
    "translate": 0.0,
    "scale": 0.0,
    "rotate": 0.0,
    "crop": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "noise": 0.0,
    "cutout": 0.0,
}
ALL: dict[str, Any] = {
    "flip": 0.5,
    "translate": 0.1,
    "scale": 0.2,
    "rotate": 20.0,
    "crop": 0.2,
    "brightness": 0.2,
    "contrast": 0.3,
    "saturation": 0.5,
    "noise": 0.1,
    "cutout": 0.25,
}
ATTRIBUTES: AttributeValues = {"category": ("bag", "shoe", "hat"), "color": ("blue", "red")}
COUNT, SIZE, SEED = 40, 24, 11


def settings(**changes: Any) -> AugmentSettings:
    return AugmentSettings(**(ZEROS | changes))


@pytest.fixture
def images() -> Tensor:
    """Noise with some shape to it: no two pixels are alike, no image is its own mirror image."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(COUNT, 3, SIZE, SIZE, generator=generator) * 1.6 - 0.8


@pytest.fixture
def conditions() -> Tensor:
    return torch.stack([torch.arange(COUNT) % 3, torch.arange(COUNT) % 2], dim=1)


def drawn(seed: int = SEED) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """The numbers in [0, 1) that decide, per image."""
    uniform = whole_batch(seed, COUNT).uniform("augment", len(DRAWS)).double()
    return {name: uniform[:, index].numpy() for index, name in enumerate(DRAWS)}


def apply(images: Tensor, conditions: Tensor, seed: int = SEED, **changes: Any) -> Tensor:
    return augment(images, conditions, whole_batch(seed, len(images)), settings(**changes), ATTRIBUTES)


def test_zeros_give_the_very_same_tensor_and_draw_nothing(images: Tensor, conditions: Tensor) -> None:
    class Untouched(Draws):
        def _generator(self, stream: str) -> torch.Generator:
            raise AssertionError(stream)

    draws = Untouched(3, 0, len(images), len(images), images.device)
    off = settings(flip_not={"category": ["shoe"]})
    assert is_off(off)
    assert augment(images, conditions, draws, off, ATTRIBUTES) is images


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_setting_by_itself_changes_images(images: Tensor, conditions: Tensor, name: str) -> None:
    assert not is_off(settings(**{name: ALL[name]}))
    changed = apply(images, conditions, **{name: ALL[name]})
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_shape_type_and_range(images: Tensor, conditions: Tensor, channels: int) -> None:
    changed = apply(images[:, :channels], conditions, **ALL)
    assert changed.shape == (COUNT, channels, SIZE, SIZE)
    assert changed.dtype == torch.float32
    assert changed.is_contiguous()
    assert changed.min() >= -1
    assert changed.max() <= 1


def test_changes_are_a_function_of_the_draws_alone(images: Tensor, conditions: Tensor) -> None:
    state = torch.get_rng_state()
    one, again, other = (apply(images, conditions, seed, **ALL) for seed in (SEED, SEED, SEED + 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_does_not_coarsen_it(images: Tensor, conditions: Tensor) -> None:
    plain = apply(images, conditions, **ALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply(images, conditions, **ALL), plain)


def test_switching_one_change_on_leaves_the_values_of_the_others(images: Tensor, conditions: Tensor) -> None:
    flipped = apply(images, conditions, flip=0.5)
    assert_close(
        apply(images, conditions, flip=0.5, brightness=0.1), (flipped + brightness_of(drawn(), 0.1)).clamp(-1, 1)
    )


def brightness_of(draws: dict[str, Any], share: float) -> Tensor:
    return torch.from_numpy(share * (2 * draws["brightness"] - 1)).float()[:, None, None, None]


def test_the_drawn_share_is_mirrored_exactly(images: Tensor, conditions: Tensor) -> None:
    mirrored = drawn()["flip"] < 0.3
    assert 0 < mirrored.sum() < COUNT
    expected = np.where(mirrored[:, None, None, None], images.numpy()[..., ::-1], images.numpy())
    assert torch.equal(apply(images, conditions, flip=0.3), torch.from_numpy(expected))


def test_what_means_something_by_its_orientation_is_never_mirrored(images: Tensor, conditions: Tensor) -> None:
    changed = apply(images, conditions, flip=1.0, flip_not={"category": ["hat", "shoe"], "color": ["red"]})
    kept = (conditions[:, 0] != 0) | (conditions[:, 1] == 1)
    assert 0 < kept.sum() < COUNT
    assert torch.equal(changed[kept], images[kept])
    assert torch.equal(changed[~kept], images[~kept].flip(-1))


def test_shifts_are_whole_pixels_and_repeat_the_border(images: Tensor, conditions: Tensor) -> None:
    moved = apply(images, conditions, translate=0.1)
    draws = drawn()
    shifts = {name: np.round(0.1 * SIZE * (2 * draws[f"shift_{name}"] - 1)).astype(int) for name in "xy"}
    assert len(set(shifts["x"])) > 3
    for index, image in enumerate(images):
        columns = (np.arange(SIZE) - shifts["x"][index]).clip(0, SIZE - 1)
        rows = (np.arange(SIZE) - shifts["y"][index]).clip(0, SIZE - 1)
        assert_close(moved[index], image[:, rows][:, :, columns], rtol=0, atol=2e-5)


def forward_map(draws: dict[str, Any], index: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where a point of the image goes, in pixels from its centre: scaled, rotated, shifted, then the crop enlarged."""
    way = {name: 2 * values[index] - 1 for name, values in draws.items()}
    factor, angle = 1 + ALL["scale"] * way["scale"], math.radians(ALL["rotate"] * way["rotate"])
    scale = np.diag([factor, factor, 1.0])
    rotate = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    shift, crop = np.eye(3), np.eye(3)
    shift[:2, 2] = [round(ALL["translate"] * SIZE * way[name]) for name in ("shift_x", "shift_y")]
    window = 1 - ALL["crop"] * draws["crop"][index]
    crop[:2, 2] = [-(1 - window) * SIZE / 2 * way[name] for name in ("crop_x", "crop_y")]
    enlarge = np.diag([1 / window, 1 / window, 1.0])
    return np.asarray(enlarge @ crop @ shift @ rotate @ scale)


def test_scale_rotation_shift_and_crop_are_the_maps_they_should_be(images: Tensor, conditions: Tensor) -> None:
    names = ("translate", "scale", "rotate", "crop")
    moved = apply(images, conditions, **{name: ALL[name] for name in names})
    grid = np.arange(SIZE) - (SIZE - 1) / 2
    y, x = np.meshgrid(grid, grid, indexing="ij")
    for index, image in enumerate(images.numpy()):
        source = np.linalg.inv(forward_map(drawn(), index)) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        at = source[[1, 0]] + (SIZE - 1) / 2
        expected = np.stack([map_coordinates(plane, at, order=1, mode="nearest") for plane in image])
        assert_close(moved[index], torch.from_numpy(expected.reshape(image.shape)), rtol=0, atol=1e-4)


def test_a_crop_takes_nothing_from_outside(conditions: Tensor) -> None:
    """Each row its own number: what is seen lies inside the image, and is at least the window's share of it."""
    ramp = torch.linspace(-1, 1, SIZE)[:, None].expand(COUNT, 1, SIZE, SIZE)
    seen = apply(ramp, conditions, crop=0.3)
    span = (seen.amax(dim=(1, 2, 3)) - seen.amin(dim=(1, 2, 3))) / 2
    assert span.max() <= 1
    assert span.min() >= 0.7 - 1 / SIZE
    assert span.max() - span.min() > 0.2


def test_colors_follow_their_formula(images: Tensor, conditions: Tensor) -> None:
    shares: dict[str, Any] = {"saturation": 0.5, "contrast": 0.4, "brightness": 0.3}
    changed = apply(images, conditions, **shares)
    draws = drawn()
    for index, image in enumerate(images.double().numpy()):
        saturation, contrast, brightness = (share * (2 * draws[name][index] - 1) for name, share in shares.items())
        grey = np.tensordot([0.299, 0.587, 0.114], image, axes=1)
        saturated = grey + (1 + saturation) * (image - grey)
        contrasted = saturated.mean() + (1 + contrast) * (saturated - saturated.mean())
        expected = (contrasted + brightness).clip(-1, 1)
        assert_close(changed[index].double(), torch.from_numpy(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_have_no_saturation(images: Tensor, conditions: Tensor, channels: int) -> None:
    grey = images[:, :1].expand(-1, channels, -1, -1)
    assert_close(apply(grey, conditions, saturation=0.9), grey, rtol=0, atol=1e-6)


def test_noise_has_its_deviation(conditions: Tensor) -> None:
    noise = apply(torch.zeros(COUNT, 3, SIZE, SIZE), conditions, noise=0.1)
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.003)


def test_cutout_paints_one_square_about_any_pixel(images: Tensor, conditions: Tensor) -> None:
    changed = apply(images, conditions, cutout=0.25)
    draws = drawn()
    for index, image in enumerate(images):
        left, top = (int(draws[f"cutout_{name}"][index] * SIZE) - 3 for name in "xy")
        expected = image.clone()
        expected[:, max(0, top) : top + 6, max(0, left) : left + 6] = 0
        assert torch.equal(changed[index], expected)


def test_gradients_go_through_it(images: Tensor, conditions: Tensor) -> None:
    """So that a GAN may one day augment what it makes, too."""
    images.requires_grad_()
    apply(images, conditions, **ALL).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("flip_not", "said"),
    [
        ({"colour": ["red"]}, r"flip_not: no condition 'colour'; prepare.conditions has \['category', 'color'\]"),
        ({"category": ["shoes", "bag"]}, r"flip_not.category: the data has no \['shoes'\]; it has \['bag', 'shoe', "),
    ],
)
def test_an_unknown_condition_or_value_is_refused(flip_not: dict[str, list[str]], said: str) -> None:
    with pytest.raises(InputError, match=f"params.yaml: train.common.augment.{said}"):
        check_augment(settings(flip_not=flip_not), ATTRIBUTES)


def test_without_conditions_none_can_be_named() -> None:
    with pytest.raises(InputError, match=r"flip_not: no condition 'category'; prepare.conditions has \[\]"):
        check_augment(settings(flip=0.5, flip_not={"category": ["shoe"]}), {})
    check_augment(settings(flip=0.5), {})


def test_without_conditions_all_may_be_mirrored(images: Tensor) -> None:
    nothing = torch.zeros(COUNT, 0, dtype=torch.int64)
    mirrored = augment(images, nothing, whole_batch(SEED, COUNT), settings(flip=1.0), {})
    assert torch.equal(mirrored, images.flip(-1))


def test_known_conditions_pass() -> None:
    check_augment(settings(flip=0.5, flip_not={"category": ["shoe"], "color": ["red", "blue"]}), ATTRIBUTES)


def test_the_contact_sheet_has_the_original_and_seven_versions_of_each_category(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path, channels=3, size=64), "train")
    sheet = contact_sheet(split, settings(), seed=3)
    pixels = np.asarray(sheet)
    cells = image_cells(sheet)
    assert len(cells) == 8 * len(CATEGORIES)
    for row in range(len(CATEGORIES)):
        original = cells[8 * row]
        # Nothing is augmented, and the row shows an image of its category: a bright bar at its place.
        assert all(np.array_equal(cell, original) for cell in cells[8 * row : 8 * row + 8])
        assert original.mean(axis=(0, 2)).reshape(8, 8).mean(axis=1)[:3].argmax() == row
    assert np.array_equal(pixels, np.asarray(contact_sheet(split, settings(), seed=3)))


def test_versions_on_the_contact_sheet_differ(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path, channels=3, size=64), "train")
    cells = image_cells(contact_sheet(split, settings(**ALL), seed=3))
    assert len({cell.tobytes() for cell in cells}) == len(cells)
    again = image_cells(contact_sheet(split, settings(), seed=3))
    assert np.array_equal(cells[0], again[0])


def test_the_contact_sheet_without_conditions_has_one_row(tmp_path: Path) -> None:
    split = load_split(without_conditions(write_prepared(tmp_path, channels=3, size=64)), "train")
    assert len(image_cells(contact_sheet(split, settings(**ALL), seed=3))) == 8


def test_the_contact_sheet_refuses_what_a_training_would(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path), "train")
    with pytest.raises(InputError, match=r"flip_not.category: the data has no \['shoes'\]"):
        contact_sheet(split, settings(flip=0.5, flip_not={"category": ["shoes"]}), seed=3)


def image_cells(sheet: Image.Image) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """The images of a contact sheet of 64 pixels, row by row; found from its right and lower edge."""
    pixels = np.asarray(sheet)
    step, panel = 64 + GAP, 7 * (64 + GAP) + GAP
    lefts = [sheet.width - panel - MARGIN - step, *(sheet.width - panel + GAP + step * column for column in range(7))]
    tops = range(MARGIN + GAP, sheet.height - GAP, step)
    return [pixels[top : top + 64, left : left + 64] for top in tops for left in lefts]
