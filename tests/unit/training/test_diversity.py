"""Distances within a category: against loops, and what they do not mistake for diversity."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from components.training.diversity import within_category_distance


def plain(images: Tensor, conditions: Tensor) -> float:
    """The same by loops, for images of 32 by 32."""
    coarse, found = avg_pool2d(images.double(), 2), []
    for one in range(len(images)):
        for other in range(one):
            if conditions.shape[1] == 0 or conditions[one, 0] == conditions[other, 0]:
                found.append((coarse[one] - coarse[other]).square().mean().sqrt())
    return float(torch.stack(found).mean())


def images(count: int, channels: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("attributes", [0, 1, 2])
def test_it_is_the_mean_over_the_pairs_of_a_category(channels: int, attributes: int) -> None:
    conditions = torch.tensor([[0, 0], [1, 1], [0, 2], [2, 3], [1, 4], [0, 5]])[:, :attributes]
    found = within_category_distance(images(6, channels), conditions)
    assert found.shape == ()
    assert float(found) == pytest.approx(plain(images(6, channels), conditions), rel=1e-5)


def test_a_batch_without_a_pair_gives_zero_and_no_nan() -> None:
    assert float(within_category_distance(images(3), torch.tensor([[0], [1], [2]]))) == 0.0
    assert float(within_category_distance(images(1), torch.zeros(1, 0, dtype=torch.int64))) == 0.0


def test_images_alike_in_each_category_have_none() -> None:
    """What a generator that ignores its latents makes: other categories look otherwise, still there is no diversity."""
    conditions = torch.tensor([[0], [1], [0], [1]])
    assert float(within_category_distance(images(2)[[0, 1, 0, 1]], conditions)) == 0.0


def test_opposite_images_are_farthest() -> None:
    black_and_white = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 1, 32, 32)
    assert float(within_category_distance(black_and_white, torch.zeros(2, 1, dtype=torch.int64))) == 2.0


def test_pixel_noise_counts_less_than_shapes() -> None:
    conditions = torch.zeros(32, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(32, 1, 128, 128, generator=generator).clamp(-1, 1)
    shapes = interpolate(torch.randn(32, 1, 4, 4, generator=generator).clamp(-1, 1), 128)
    ratio = float(within_category_distance(noise, conditions) / within_category_distance(shapes, conditions))
    # Averages of 8 by 8 pixels have an eighth of the deviation.
    assert ratio == pytest.approx(1 / 8, rel=0.15)


def test_small_differences_do_not_drown_in_rounding() -> None:
    base = images(1)
    pair = torch.cat([base, base + 1e-4])
    found = float(within_category_distance(pair, torch.zeros(2, 1, dtype=torch.int64)))
    assert found == pytest.approx(1e-4, rel=0.01)


def test_autocast_does_not_coarsen_it() -> None:
    conditions = torch.zeros(6, 1, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        found = within_category_distance(images(6), conditions)
    torch.testing.assert_close(found, within_category_distance(images(6), conditions), rtol=0, atol=0)


def test_it_keeps_no_graph() -> None:
    found = within_category_distance(images(2).requires_grad_(), torch.zeros(2, 1, dtype=torch.int64))
    assert not found.requires_grad
