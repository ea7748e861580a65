from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from components.adversarial.augmentation import (
    DRAWS,
    AdaptiveProbability,
    DiscriminatorAugmentation,
    DiscriminatorAugmentSettings,
)
from components.training.draws import Draws, whole_batch

DIFF_AUGMENT = {"brightness": 0.5, "contrast": 0.5, "saturation": 1.0, "translate": 0.125, "cutout": 0.5}
NOTHING = dict.fromkeys(DIFF_AUGMENT, 0.0)
ADAPTIVE = AdaptiveProbability(start=0.25, target=0.6, images=1000)


def augmentation(probability: Any = 1.0, **changes: float) -> DiscriminatorAugmentation:
    return DiscriminatorAugmentation(DiscriminatorAugmentSettings(probability=probability, **(NOTHING | changes)))


def images(count: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def drawn(count: int, name: str, stream: str = "real") -> Tensor:
    return whole_batch(5, count).uniform(f"augment {stream}", len(DRAWS))[:, DRAWS.index(name)]


def test_with_probability_0_the_very_images_come_back() -> None:
    given = images()
    assert augmentation(0.0, **DIFF_AUGMENT)(given, whole_batch(5, 16), "real") is given


def test_with_probability_1_every_image_is_changed() -> None:
    given = images(200)
    changed = augmentation(1.0, **DIFF_AUGMENT)(given, whole_batch(5, 200), "real")
    assert (changed != given).flatten(1).any(dim=1).all()
    assert changed.shape == given.shape


def test_a_probability_between_changes_as_many_and_leaves_the_others_alone() -> None:
    given = images(1000)
    augment = augmentation(0.3, **DIFF_AUGMENT)
    changed_N = (augment(given, whole_batch(5, 1000), "real") != given).flatten(1).any(dim=1)
    assert changed_N.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(changed_N, drawn(1000, "chosen") < 0.3)


def test_settings_of_zero_change_nothing_but_the_probability_is_drawn() -> None:
    given = images()
    torch.testing.assert_close(augmentation(1.0)(given, whole_batch(5, 16), "real"), given)


def test_brightness_is_added_without_clipping() -> None:
    given = torch.full((64, 1, 4, 4), 0.9)
    changed = augmentation(brightness=0.5)(given, whole_batch(5, 64), "real")
    expected = 0.9 + (drawn(64, "brightness") * 2 - 1) * 0.5
    torch.testing.assert_close(changed, expected[:, None, None, None].expand_as(given))
    assert changed.max() > 1.2


def test_contrast_stretches_about_the_images_mean() -> None:
    given = images()
    changed = augmentation(contrast=0.5)(given, whole_batch(5, 16), "real")
    factor = 1 + 0.5 * (drawn(16, "contrast") * 2 - 1)[:, None, None, None]
    mean = given.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed - given, (factor - 1) * (given - mean), atol=1e-5, rtol=1e-4)


def test_saturation_of_grey_images_does_nothing() -> None:
    given = images(channels=1)
    torch.testing.assert_close(augmentation(saturation=1.0)(given, whole_batch(5, 16), "real"), given)
    colored = images()
    changed = augmentation(saturation=1.0)(colored, whole_batch(5, 16), "real")
    assert (changed - colored).abs().flatten(1).amax(dim=1).min() > 0.01


def test_shifts_are_by_whole_pixels_and_repeat_the_border() -> None:
    given = images(64)
    changed = augmentation(translate=0.125)(given, whole_batch(5, 64), "real")
    moved = set()
    for row in range(64):
        x, y = (round(2 * float(drawn(64, name)[row] * 2 - 1)) for name in ("shift_x", "shift_y"))
        rows, columns = (torch.arange(16) + y).clamp(0, 15), (torch.arange(16) + x).clamp(0, 15)
        torch.testing.assert_close(changed[row], given[row][:, rows][:, :, columns], rtol=0, atol=0)
        moved.add((x, y))
    assert {x for x, _ in moved} == {y for _, y in moved} == {-2, -1, 0, 1, 2}


def test_cutout_paints_a_square_in_grey() -> None:
    given = torch.full((400, 1, 16, 16), 0.7)
    changed = augmentation(cutout=0.5)(given, whole_batch(5, 400), "real")
    assert ((changed == 0) | (changed == given)).all()
    counts = (changed == 0).sum(dim=(1, 2, 3))
    assert counts.max() == 64
    # A corner of the square at least, since its centre lies in the image.
    assert counts.min() >= 16


def test_gradients_pass_to_what_is_still_seen() -> None:
    given = images().requires_grad_()
    changed = augmentation(**DIFF_AUGMENT)(given, whole_batch(5, 16), "real")
    changed.square().sum().backward()
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()
    assert (given.grad.flatten(1).abs().amax(dim=1) > 0).all()
    numeric = given.detach().double()[:2].requires_grad_()

    def augmented(some: Tensor) -> Tensor:
        changed: Tensor = augmentation(translate=0.1, cutout=0.3)(some.float(), whole_batch(5, 2), "real")
        return changed.square()

    (found,) = torch.autograd.grad(augmented(numeric).sum(), numeric)
    step = torch.zeros_like(numeric)
    step[0, 1, 8, 8] = 1e-2
    difference = (augmented(numeric + step).sum() - augmented(numeric - step).sum()) / 2e-2
    torch.testing.assert_close(found[0, 1, 8, 8].float(), difference, rtol=1e-2, atol=1e-2)


def test_a_part_gets_what_the_whole_batch_gets() -> None:
    given, augment = images(8), augmentation(0.5, **DIFF_AUGMENT)
    whole = augment(given, whole_batch(5, 8), "real")
    parts = [
        augment(given[start : start + 4], Draws(5, start, start + 4, 8, torch.device("cpu")), "real")
        for start in (0, 4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


def test_each_stream_has_draws_of_its_own() -> None:
    given, augment = images(), augmentation(**DIFF_AUGMENT)
    real, fake = (augment(given, whole_batch(5, 16), stream) for stream in ("real", "fake"))
    assert not torch.allclose(real, fake)


def test_an_adaptive_probability_rises_above_the_target_falls_below_and_stays_in_bounds() -> None:
    augment = augmentation(ADAPTIVE, **DIFF_AUGMENT)
    steps = [(0.7, 0.35), (1.0, 0.45), (0.5, 0.35), (-1.0, 0.25)]
    for sign, expected in steps:
        augment.adapt(torch.tensor(sign), images=100)
        torch.testing.assert_close(augment.probability, torch.tensor(expected))
    for _ in range(20):
        augment.adapt(torch.tensor(1.0), images=100)
    assert augment.probability == 1
    for _ in range(20):
        augment.adapt(torch.tensor(0.0), images=100)
    assert augment.probability == 0


def test_an_adaptive_probability_of_0_can_rise_and_is_used() -> None:
    augment, given = augmentation(ADAPTIVE.model_copy(update={"start": 0.0}), **DIFF_AUGMENT), images()
    torch.testing.assert_close(augment(given, whole_batch(5, 16), "real"), given, rtol=0, atol=0)
    augment.adapt(torch.tensor(1.0), images=1000)
    assert (augment(given, whole_batch(5, 16), "real") != given).flatten(1).any(dim=1).all()


def test_a_fixed_probability_does_not_adapt_and_an_adaptive_one_is_state() -> None:
    fixed = augmentation(0.5)
    fixed.adapt(torch.tensor(1.0), images=10**6)
    assert fixed.probability == 0.5
    adaptive = augmentation(ADAPTIVE)
    adaptive.adapt(torch.tensor(1.0), images=100)
    other = augmentation(ADAPTIVE)
    other.load_state_dict(adaptive.state_dict())
    torch.testing.assert_close(other.probability, torch.tensor(0.35))


@pytest.mark.parametrize("probability", [1.5, -0.1, {"start": 0.0, "target": 0.6, "images": 0}])
def test_bad_probabilities_are_refused(probability: Any) -> None:
    with pytest.raises(ValidationError):
        DiscriminatorAugmentSettings.model_validate({"probability": probability, **DIFF_AUGMENT})
