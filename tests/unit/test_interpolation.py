"""The ways between two latents, against their formulas."""

import math

import torch
from torch.testing import assert_close

from components.interpolation import linear, spherical

SHARES = torch.linspace(0, 1, 5)


def test_linear_is_the_straight_line() -> None:
    first, second = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([[4.0, 0.0], [1.0, 5.0]])
    way = linear(first, second, SHARES)
    assert_close(way[0], torch.tensor([[0.0, 2.0], [1.0, 1.5], [2.0, 1.0], [3.0, 0.5], [4.0, 0.0]]))
    assert_close(way[1, :, 1], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))


def test_spherical_turns_by_equal_angles_at_equal_norm() -> None:
    way = spherical(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]), SHARES)[0]
    angles = SHARES * math.pi / 2
    assert_close(way, 3 * torch.stack([angles.cos(), angles.sin()], dim=1))


def test_spherical_keeps_the_norm_that_normal_latents_have_and_linear_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 400, 100, generator=generator)
    middle = torch.tensor([0.5])
    assert abs(spherical(first, second, middle).norm(dim=2).mean() - 10) < 0.2
    assert abs(linear(first, second, middle).norm(dim=2).mean() - 10 / math.sqrt(2)) < 0.2


def test_spherical_meets_both_ends_and_stays_finite_where_latents_are_collinear() -> None:
    first = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    second = torch.tensor([[3.0, -1.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
    way = spherical(first, second, SHARES)
    assert_close(way[:, 0], first)
    assert_close(way[:, -1], second)
    assert way.isfinite().all()
    assert_close(spherical(torch.tensor([[2.0]]), torch.tensor([[-1.0]]), SHARES)[0, :, 0], 2 - 3 * SHARES)
