import math

import pytest
import torch
from torch import nn

from components.models.gan import GAN_LOSSES, r1_penalty


def test_hinge_follows_its_definition() -> None:
    real, fake = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([-2.0, 0.25, 1.0])
    discriminator, generator = GAN_LOSSES["hinge"]
    expected = sum(max(0.0, 1 - x) for x in real.tolist()) / 3 + sum(max(0.0, 1 + x) for x in fake.tolist()) / 3
    torch.testing.assert_close(discriminator(real, fake), torch.tensor(expected))
    torch.testing.assert_close(generator(fake), torch.tensor(-sum(fake.tolist()) / 3))


def test_non_saturating_is_cross_entropy() -> None:
    real, fake = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([-2.0, 0.25, 1.0])
    discriminator, generator = GAN_LOSSES["non_saturating"]

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = sum(-math.log(sigmoid(x)) for x in real.tolist()) / 3
    expected += sum(-math.log(1 - sigmoid(x)) for x in fake.tolist()) / 3
    torch.testing.assert_close(discriminator(real, fake), torch.tensor(expected))
    torch.testing.assert_close(generator(fake), torch.tensor(sum(-math.log(sigmoid(x)) for x in fake.tolist()) / 3))


def test_r1_of_a_linear_discriminator_is_its_squared_weight() -> None:
    torch.manual_seed(0)
    discriminator = nn.Linear(2 * 4 * 4, 1)
    images = torch.randn(5, 2, 4, 4, requires_grad=True)
    penalty = r1_penalty(images, discriminator(images.flatten(1)).squeeze(1))
    torch.testing.assert_close(penalty, discriminator.weight.square().sum().expand(5))


def test_r1_of_a_square_is_four_times_the_square() -> None:
    images = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 3.0]]]], requires_grad=True)
    logits = images.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(r1_penalty(images, logits), torch.tensor([20.0, 37.0]))


def test_r1_needs_images_that_require_grad() -> None:
    images = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="require grad"):
        r1_penalty(images, images.sum().view(1))
