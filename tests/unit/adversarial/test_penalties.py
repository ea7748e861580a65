"""Penalties against networks with known gradients, against torch's Jacobian, and estimates against exact ones."""

import math
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from components.adversarial.penalties import (
    Due,
    PenaltiesSettings,
    PenaltySettings,
    due_penalties,
    interpolates,
    off_unit_norm,
    off_unit_norm_by_slopes,
    random_slopes,
    squared_gradients,
)
from components.generative import Step
from components.settings import Cosine
from components.training.draws import Draws, whole_batch


class Linear(nn.Module):
    """w . x + 3, whose gradient is w everywhere."""

    def __init__(self, norm: float = 2.0) -> None:
        super().__init__()
        weight = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight * (norm / weight.norm()))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return (images_NCHW * self.weight).sum(dim=(1, 2, 3)) + 3


def small_convolutions(activation: type[nn.Module] = nn.LeakyReLU) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 8, 4, stride=2, padding=1),
        activation(),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(64, 1),
        nn.Flatten(0),
    )


def random_images(count: int = 6, seed: int = 2) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def directions(shape: torch.Size, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_gradients_of_a_linear_discriminator_are_its_weight() -> None:
    critic = Linear()
    images = random_images().requires_grad_()
    torch.testing.assert_close(squared_gradients(images, critic(images)), critic.weight.square().sum().expand(6))


def test_squared_gradients_of_a_square_are_four_times_the_square() -> None:
    images = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 3.0]]]], requires_grad=True)
    logits = images.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(squared_gradients(images, logits), torch.tensor([20.0, 37.0]))


def test_squared_gradients_are_those_of_the_jacobian() -> None:
    critic, images = small_convolutions(), random_images(4)
    jacobian: Tensor = torch.autograd.functional.jacobian(critic, images)
    expected = torch.stack([jacobian[i, i].square().sum() for i in range(4)])
    images.requires_grad_()
    torch.testing.assert_close(squared_gradients(images, critic(images)), expected)


def test_squared_gradients_reach_the_weights() -> None:
    critic = Linear()
    images = random_images().requires_grad_()
    squared_gradients(images, critic(images)).mean().backward()
    torch.testing.assert_close(critic.weight.grad, 2 * critic.weight.detach())


def test_squared_gradients_need_images_that_require_grad() -> None:
    images = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="require grad"):
        squared_gradients(images, images.sum().view(1))


def test_slopes_of_a_linear_discriminator_are_scalar_products() -> None:
    critic, images = Linear(), random_images()
    along = directions(images.shape)
    expected = (along * critic.weight).sum(dim=(1, 2, 3))
    torch.testing.assert_close(random_slopes(critic, images, along), expected, rtol=1e-3, atol=1e-3)


def test_squared_slopes_of_a_linear_discriminator_are_its_squared_norm_in_expectation() -> None:
    critic = Linear(norm=2.0)
    images = random_images(1).expand(20_000, -1, -1, -1)
    slopes = random_slopes(critic, images, directions(images.shape))
    # Their relative deviation is sqrt(2 / N) = 0.01.
    torch.testing.assert_close(slopes.square().mean(), torch.tensor(4.0), rtol=0.04, atol=0)


@pytest.mark.parametrize("norm", [0.3, 1.0, 2.5])
def test_unit_norm_is_estimated_without_bias(norm: float) -> None:
    critic = Linear(norm)
    images = random_images(1).expand(40_000, -1, -1, -1)
    estimate = off_unit_norm_by_slopes(random_slopes(critic, images, directions(images.shape))).mean()
    exact = off_unit_norm(torch.tensor([norm**2]))
    torch.testing.assert_close(exact, torch.tensor([(norm - 1) ** 2]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(estimate, exact[0], rtol=0.04, atol=0.02)


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.SiLU])
def test_estimates_agree_with_exact_ones_on_convolutions(activation: type[nn.Module]) -> None:
    """Within 3%: 0.7% is chance with 256 * 150 directions, the rest the curvature over a step of 0.03."""
    critic, images = small_convolutions(activation), random_images(256)
    estimate = torch.stack(
        [random_slopes(critic, images, directions(images.shape, seed)).square().mean() for seed in range(150)]
    ).mean()
    images.requires_grad_()
    exact = squared_gradients(images, critic(images)).mean()
    torch.testing.assert_close(estimate, exact, rtol=0.03, atol=0)


def test_estimates_move_weights_as_exact_ones_do() -> None:
    critic, images = small_convolutions(nn.SiLU), random_images(64)
    weight = next(critic.parameters())

    def gradient(penalty: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(penalty.mean(), weight)
        return found.flatten()

    estimate = torch.stack(
        [gradient(random_slopes(critic, images, directions(images.shape, seed)).square()) for seed in range(300)]
    ).mean(dim=0)
    images.requires_grad_()
    exact = gradient(squared_gradients(images, critic(images)))
    assert torch.cosine_similarity(estimate, exact, dim=0) > 0.98
    torch.testing.assert_close(estimate.norm(), exact.norm(), rtol=0.06, atol=0)


class Restless(nn.Module):
    """Like a spectral norm that has not settled: each pass has another scale, which both ends must share."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.linear = Linear()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        self.passes += 1
        scaled: Tensor = self.linear(images_NCHW) * (1 + 0.1 * self.passes)
        return scaled


def test_both_ends_of_a_difference_go_through_one_pass() -> None:
    critic, images = Restless(), random_images()
    along = directions(images.shape)
    expected = 1.1 * (along * critic.linear.weight).sum(dim=(1, 2, 3))
    torch.testing.assert_close(random_slopes(critic, images, along), expected, rtol=1e-3, atol=1e-3)


def test_differences_are_taken_in_float32_under_autocast() -> None:
    critic, images = small_convolutions(), random_images()
    along = directions(images.shape)
    expected = random_slopes(critic, images, along)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert critic(images).dtype == torch.bfloat16
        torch.testing.assert_close(random_slopes(critic, images, along), expected)


def test_interpolates_lie_on_the_line_each_at_a_place_of_its_own() -> None:
    reals, fakes = torch.zeros(200, 1, 4, 4), torch.ones(200, 1, 4, 4)
    between = interpolates(reals, fakes, whole_batch(5, 200))
    places = between[:, 0, 0, 0]
    torch.testing.assert_close(between, places[:, None, None, None].expand_as(between))
    assert places.min() >= 0
    assert places.max() <= 1
    assert places.mean().item() == pytest.approx(0.5, abs=0.08)
    assert len(places.unique()) > 190


def test_interpolates_of_a_part_are_those_of_the_whole() -> None:
    reals, fakes = random_images(8), random_images(8, seed=4)
    whole = interpolates(reals, fakes, whole_batch(5, 8))
    part = interpolates(reals[2:6], fakes[2:6], Draws(5, 2, 6, 8, torch.device("cpu")))
    torch.testing.assert_close(part, whole[2:6])


def test_a_gradient_of_nothing_has_a_finite_penalty() -> None:
    squared = torch.zeros(3, requires_grad=True)
    off_unit_norm(squared).sum().backward()
    assert squared.grad is not None
    assert torch.isfinite(squared.grad).all()


def penalty(
    gamma: float | Cosine, every: int = 1, method: Literal["exact", "finite_difference"] = "exact"
) -> PenaltySettings:
    return PenaltySettings(gamma=gamma, every=every, method=method)


def test_a_penalty_is_due_at_each_of_its_steps_and_weighs_for_those_between() -> None:
    settings = PenaltiesSettings(
        r1=penalty(0.4, every=4), r2=penalty(0.6, every=2, method="finite_difference"), gradient_penalty=penalty(10.0)
    )
    due = [due_penalties(settings, Step(number, 0, 0.0, ())) for number in range(5)]
    assert [sorted(found) for found in due] == [
        ["gradient_penalty", "r1", "r2"],
        ["gradient_penalty"],
        ["gradient_penalty", "r2"],
        ["gradient_penalty"],
        ["gradient_penalty", "r1", "r2"],
    ]
    assert due[0]["r1"] == Due(0.8, exact=True)
    assert due[0]["r2"] == Due(0.6, exact=False)
    assert due[0]["gradient_penalty"] == Due(10.0, exact=True)


def test_gamma_follows_its_schedule_and_nothing_is_computed_at_zero() -> None:
    settings = PenaltiesSettings(r1=penalty(Cosine(start=2.0, end=0.0, share=0.5)), r2=None, gradient_penalty=None)
    weights = [due_penalties(settings, Step(0, 0, progress, ()))["r1"].weight for progress in (0.0, 0.125, 0.25)]
    assert weights == pytest.approx([1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5])
    assert due_penalties(settings, Step(0, 0, 0.5, ())) == {}


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValidationError, match="finite_difference"):
        PenaltySettings.model_validate_json('{"gamma": 1.0, "every": 1, "method": "autograd"}')
