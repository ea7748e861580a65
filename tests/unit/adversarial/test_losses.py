import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from components.adversarial.losses import (
    DECISION_LEVELS,
    GAN_LOSSES,
    USES_REALS,
    LossName,
    pair_accuracy,
    sign_of_reals,
)

REAL = np.array([0.5, 2.0, -1.0, 3.0])
FAKE = np.array([-2.0, 0.25, 1.0, -0.5])
SHIFT_INVARIANT = ("wasserstein", "relativistic")


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = 1 / (1 + np.exp(-x))
    return shares


EXPECTED: dict[LossName, tuple[float, float]] = {
    "non_saturating": (
        float(np.mean(-np.log(sigmoid(REAL))) + np.mean(-np.log(1 - sigmoid(FAKE)))),
        float(np.mean(-np.log(sigmoid(FAKE)))),
    ),
    "hinge": (
        float(np.mean(np.maximum(0, 1 - REAL)) + np.mean(np.maximum(0, 1 + FAKE))),
        float(-np.mean(FAKE)),
    ),
    "lsgan": (
        float(np.mean((REAL - 1) ** 2) / 2 + np.mean(FAKE**2) / 2),
        float(np.mean((FAKE - 1) ** 2) / 2),
    ),
    "wasserstein": (float(np.mean(FAKE) - np.mean(REAL)), float(-np.mean(FAKE))),
    "relativistic": (
        float(np.mean(-np.log(sigmoid(REAL - FAKE)))),
        float(np.mean(-np.log(sigmoid(FAKE - REAL)))),
    ),
}


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_losses_follow_their_definition(name: LossName) -> None:
    discriminator, generator = GAN_LOSSES[name]
    expected = torch.tensor(EXPECTED[name])
    torch.testing.assert_close(discriminator(torch.tensor(REAL).float(), torch.tensor(FAKE).float()), expected[0])
    torch.testing.assert_close(generator(torch.tensor(REAL).float(), torch.tensor(FAKE).float()), expected[1])


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_the_discriminator_raises_reals_and_lowers_fakes(name: LossName) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.full((3,), 0.4, requires_grad=True)
    GAN_LOSSES[name][0](real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_the_generator_raises_fakes(name: LossName) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.full((3,), 0.4, requires_grad=True)
    GAN_LOSSES[name][1](real, fake).backward()
    assert fake.grad is not None
    assert (fake.grad < 0).all()
    assert (real.grad is not None) == (name in USES_REALS)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_losses_of_huge_logits_are_finite(name: LossName) -> None:
    real, fake = torch.tensor([1e4, -1e4], requires_grad=True), torch.tensor([-1e4, 1e4], requires_grad=True)
    for loss in GAN_LOSSES[name]:
        value = loss(real, fake)
        assert torch.isfinite(value)
        value.backward()
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()


def test_relativistic_compares_row_by_row() -> None:
    """Not with the other side's mean, as RaGAN does."""
    discriminator, _ = GAN_LOSSES["relativistic"]
    real, fake = torch.tensor([5.0, -5.0]), torch.tensor([0.0, 0.0])
    assert discriminator(real, fake) != discriminator(real, fake.new_tensor([5.0, -5.0]))
    torch.testing.assert_close(discriminator(real, real), torch.tensor(2.0).log())


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_a_loss_has_a_level_unless_a_shift_of_all_logits_changes_nothing(name: LossName) -> None:
    real, fake = torch.tensor(REAL).float(), torch.tensor(FAKE).float()
    discriminator, _ = GAN_LOSSES[name]
    unchanged = torch.allclose(discriminator(real, fake), discriminator(real + 3, fake + 3))
    assert unchanged == (DECISION_LEVELS[name] is None)


def test_the_level_is_where_the_discriminators_loss_has_its_least_value_if_it_cannot_tell_them_apart() -> None:
    levels = torch.linspace(-2, 2, 401)
    for name, level in DECISION_LEVELS.items():
        if level is None:
            continue
        values = torch.stack([GAN_LOSSES[name][0](x[None], x[None]) for x in levels])
        least = levels[values <= values.min() + 1e-6]
        assert least.min() - 1e-3 <= level <= least.max() + 1e-3
        assert least.mean().item() == pytest.approx(level, abs=1e-3)


def test_pair_accuracy_counts_rows_whose_real_is_above() -> None:
    accuracy = pair_accuracy(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 5.0, 2.0, 0.0]))
    torch.testing.assert_close(accuracy, torch.tensor(0.5))


def test_sign_of_reals_about_the_losses_level() -> None:
    real, fake = torch.tensor([0.25, 0.75, -1.0, 2.0]), torch.full((4,), -9.0)
    torch.testing.assert_close(sign_of_reals("non_saturating", real, fake), torch.tensor(0.5))
    torch.testing.assert_close(sign_of_reals("hinge", real, fake), torch.tensor(0.5))
    torch.testing.assert_close(sign_of_reals("lsgan", real, fake), torch.tensor(0.0))


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
def test_sign_of_reals_is_blind_to_a_shift_where_the_loss_is(name: LossName) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 20_000, generator=generator)
    # Real and fake 2 * 0.8416 deviations apart: 80% of the reals lie above the middle, hence a mean sign of 0.6.
    real, fake = noise[0] + 0.8416, noise[1] - 0.8416
    values = [sign_of_reals(name, real + shift, fake + shift) for shift in (0.0, -7.0, 40.0)]
    for value in values:
        torch.testing.assert_close(value, torch.tensor(0.6), atol=0.02, rtol=0)
    torch.testing.assert_close(sign_of_reals(name, noise[0], noise[1]), torch.tensor(0.0), atol=0.02, rtol=0)
    torch.testing.assert_close(sign_of_reals("hinge", real, fake), torch.tensor(0.6), atol=0.02, rtol=0)
