"""The pictures, by their pixels: what stands where, and that it is what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.dataset import Split, load_info, load_split
from components.generative import GenerativeModel, Step, build
from components.interpolation import linear, spherical
from components.pictures import COLUMNS, COMPARED, ClosePair, closest_pairs, compare, pictures
from components.sheets import GAP, MARGIN
from tests.prepared import CATEGORIES, without_conditions, write_prepared
from tests.small import small_settings

SIZE = 32
SCALE = 2
STEP = SCALE * (SIZE + GAP)


class Flat(GenerativeModel):
    """An image of one grey, told by the latent; the category is a bright row of pixels."""

    def __init__(self, latent_dim: int = 1, channels: int = 1) -> None:
        super().__init__(small_settings("gan"))
        self.latent_dim, self.channels = latent_dim, channels

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(len(conditions_NA), self.latent_dim, generator=generator) - 0.5

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        images = latents_ND[:, :1, None, None].expand(-1, self.channels, SIZE, SIZE).clone()
        for image, codes in zip(images, conditions_NA, strict=True):
            if len(codes):
                image[:, int(codes[0])] = 1.0
        return images

    def optimise(self, step: Step) -> dict[str, Tensor]:
        raise NotImplementedError  # is never trained

    def sampling_state(self) -> dict[str, Tensor]:
        return {}

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        assert not state


class Broken(Flat):
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        return super().generate(latents_ND, conditions_NA) * torch.nan


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return load_split(write_prepared(tmp_path / "prepared"), "test")


@pytest.fixture
def unconditional(tmp_path: Path) -> Split:
    return load_split(without_conditions(write_prepared(tmp_path / "unconditional")), "test")


def cells(sheet: Image.Image, columns: int, right: int = 0) -> NDArray[np.uint8]:
    """Images (rows, columns, H, W) of a grid under a heading, so many pixels from the right end of the sheet."""
    pixels = np.asarray(sheet.convert("L"))
    left, rows = sheet.width - right - columns * STEP - SCALE * GAP, (sheet.height - MARGIN) // STEP
    corners = [
        (MARGIN + SCALE * GAP + row * STEP, left + SCALE * GAP + n * STEP)
        for row in range(rows)
        for n in range(columns)
    ]
    found = np.stack([pixels[y : y + SCALE * SIZE : SCALE, x : x + SCALE * SIZE : SCALE] for y, x in corners])
    return found.reshape(rows, columns, SIZE, SIZE)


def test_interpolations_go_evenly_from_one_latent_to_another_under_one_condition(split: Split) -> None:
    found = cells(pictures(Flat(), split, seed=6)["interpolations.png"], COLUMNS)
    assert len(found) == len(CATEGORIES)
    for category, row in enumerate(found):
        assert (row[:, category] == 255).all()
        steps = np.diff(row[:, -1, 0].astype(int))
        assert np.abs(steps - steps.mean()).max() <= 1
    greys = found[:, :, -1, 0].astype(int)
    assert np.abs(greys[:, -1] - greys[:, 0]).max() > 20
    assert len({row[0].tobytes() for row in found[:, :, -1]}) == len(CATEGORIES)


def test_interpolations_without_conditions_have_rows_of_different_latents(unconditional: Split) -> None:
    found = cells(pictures(Flat(), unconditional, seed=3)["interpolations.png"], COLUMNS)
    assert len(found) == 4
    assert len({int(grey) for grey in found[:, 0, 0, 0]}) == 4


def test_interpolations_of_many_rows_are_all_there(split: Split) -> None:
    """More images than are generated at once."""
    names = tuple(f"category {number}" for number in range(30))
    manifest = split.manifest.assign(category=[names[row % 25] for row in range(len(split))])
    found = cells(
        pictures(Flat(), Split(split.shards, manifest, {"category": names}), 3)["interpolations.png"], COLUMNS
    )
    assert found.shape[:2] == (20, COLUMNS)
    assert all((row[:, category] == 255).all() for category, row in enumerate(found))


def test_what_is_no_number_is_drawn_grey(split: Split) -> None:
    found = cells(pictures(Broken(), split, seed=3)["interpolations.png"], COLUMNS)
    assert (found == 128).all()


def test_a_comparison_shows_models_and_real_images_under_the_same_conditions(split: Split) -> None:
    made = compare({"candidate": Flat(), "champion": Flat(latent_dim=5)}, split, seed=3)
    assert made.labels == list(CATEGORIES)
    assert list(made.panels) == ["candidate", "champion", "real"]
    width = COMPARED * STEP + SCALE * GAP
    sheet = made.sheet()
    for place, heading in enumerate(["real", "champion", "candidate"]):
        shown = cells(sheet, COMPARED, right=place * (width + MARGIN))
        assert (shown.reshape(-1, SIZE, SIZE) == made.panels[heading][:, 0].numpy()).all()
    candidate, champion, real = (found.unflatten(0, (len(CATEGORIES), COMPARED)) for found in made.panels.values())
    for category in range(len(CATEGORIES)):
        assert (candidate[category, :, :, category] == 255).all()
        assert (champion[category, :, :, category] == 255).all()
        rows = np.flatnonzero(split.conditions_NA[:, 0] == category)[:COMPARED]
        assert (real[category].numpy() == split.gather(rows)).all()
        # A column has the same latent in every category.
        assert (candidate[category, :, 0, -1, 0] == candidate[0, :, 0, -1, 0]).all()
    assert len(candidate[0, :, 0, -1, 0].unique()) == COMPARED


def test_a_comparison_has_the_first_columns_of_samples(split: Split) -> None:
    panel = compare({"candidate": Flat()}, split, seed=3).panels["candidate"]
    # samples.png has no heading.
    sheet = pictures(Flat(), split, seed=3)["samples.png"]
    padded = Image.new("L", (sheet.width, sheet.height + MARGIN))
    padded.paste(sheet, (0, MARGIN))
    shown = cells(padded, COLUMNS)[:, :COMPARED]
    assert (shown.reshape(-1, SIZE, SIZE) == panel[:, 0].numpy()).all()


def test_strips_are_the_rows_of_the_sheet(split: Split) -> None:
    made = compare({"candidate": Flat()}, split, seed=3)
    strips = made.strips()
    assert [label for label, _ in strips] == list(CATEGORIES)
    for row, (_, images) in enumerate(strips):
        assert list(images) == ["candidate", "real"]
        for heading, strip in images.items():
            pixels = np.asarray(strip)[SCALE * GAP : -SCALE * GAP : SCALE, SCALE * GAP :: SCALE]
            first = made.panels[heading][row * COMPARED, 0].numpy()
            assert (pixels[:, :SIZE] == first).all()
            assert strip.size == (COMPARED * STEP + SCALE * GAP, STEP + SCALE * GAP)


def test_a_comparison_without_conditions_has_four_rows(unconditional: Split) -> None:
    made = compare({"candidate": Flat(), "champion": Flat(3)}, unconditional, seed=3)
    assert made.labels == [""] * 4
    # One of 128 greys each: two may be the same by chance.
    assert len({image.numpy().tobytes() for image in made.panels["candidate"]}) >= 4 * COMPARED - 2
    assert len({image.numpy().tobytes() for image in made.panels["real"]}) == 4 * COMPARED


def test_models_draw_the_same_latents_whatever_their_size_from_a_seed(split: Split) -> None:
    one, other = (compare({"candidate": Flat()}, split, seed=seed).panels["candidate"] for seed in (3, 4))
    assert torch.equal(one, compare({"champion": Flat()}, split, seed=3).panels["champion"])
    assert not torch.equal(one, other)


def grey_pair(number: int, *, registered: bool = False, channels: int = 1) -> ClosePair:
    shades = [torch.full((channels, SIZE, SIZE), 10 * number + part, dtype=torch.uint8) for part in range(3)]
    return ClosePair(shades[0], shades[1], f"0.{number}", shades[2] if registered else None)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_closest_pairs_stand_side_by_side_five_in_a_row(registered: bool, channels: int) -> None:
    made = closest_pairs([grey_pair(number, registered=registered, channels=channels) for number in range(7)])
    pixels = np.asarray(made.convert("L"))
    of_pair = 3 if registered else 2
    width = of_pair * STEP + SCALE * GAP + MARGIN
    assert made.width == 5 * width - MARGIN
    for number in range(7):
        left, top = number % 5 * width, MARGIN + number // 5 * (STEP + SCALE * GAP + MARGIN)
        middles = [pixels[top + 30, left + 30 + part * STEP] for part in range(of_pair)]
        assert middles == [10 * number + part for part in range(of_pair)]
        caption = pixels[top + STEP + SCALE * GAP :][:MARGIN, left : left + width - MARGIN]
        assert caption.min() < 100


def test_a_long_label_stays_below_its_pair() -> None:
    pair = grey_pair(1)
    long = ClosePair(pair.sample, pair.photo, "a category with a name that\n is far too long " * 3)
    pixels = np.asarray(closest_pairs([long, long]).convert("L"))
    width = 2 * STEP + SCALE * GAP
    assert (pixels[MARGIN + STEP + SCALE * GAP :, width : width + MARGIN] == 255).all()


def test_a_single_pair_has_room_for_the_heading() -> None:
    assert closest_pairs([grey_pair(1)]).width > 2 * STEP + SCALE * GAP


def test_gan_latents_turn_and_others_go_straight(tmp_path: Path) -> None:
    info = load_info(write_prepared(tmp_path / "prepared"))
    first, second = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    shares = torch.linspace(0, 1, 4)
    for family, way in (("gan", spherical), ("vae", linear), ("vae_gan", linear)):
        model = build(family, small_settings(family), info)
        torch.testing.assert_close(model.interpolate(first, second, shares), way(first, second, shares))
