from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Normal

from components.variational.density import LatentDensity, encoded_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(count: int, centres: list[float], dim: int = 2) -> Tensor:
    """Latents (count, dim) in equal parts around points on the diagonal, deviation 0.1."""
    around = torch.tensor(centres)[torch.arange(count) % len(centres)]
    return around[:, None] + 0.1 * torch.randn(count, dim, generator=seeded(count))


def column(count: int, value: int = 0) -> Tensor:
    return torch.full((count, 1), value)


def test_unfitted_it_is_the_standard_normal() -> None:
    density = LatentDensity(3, (4,), components=2)
    z = torch.randn(5, 3, generator=seeded())
    expected = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    torch.testing.assert_close(density.log_prob(z, column(5, 2)), expected.double(), check_dtype=False)
    drawn = density.sample(column(20_000, 3), seeded())
    torch.testing.assert_close(drawn.mean(dim=0), torch.zeros(3), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), torch.eye(3), rtol=0, atol=0.04)


def test_planted_mixtures_are_found_by_condition() -> None:
    density = LatentDensity(2, (2,), components=2)
    latents = torch.cat([planted(400, [-3.0, 3.0]), planted(400, [0.0, 6.0])])
    density.fit(latents, torch.cat([column(400, 0), column(400, 1)]))
    for value, centres in ((0, [-3.0, 3.0]), (1, [0.0, 6.0])):
        drawn = density.sample(column(4000, value), seeded()).mean(dim=1)
        distances = (drawn[:, None] - torch.tensor(centres)).abs()
        assert (distances.min(dim=1).values < 0.5).all()
        shares = distances.argmin(dim=1).float().mean()
        torch.testing.assert_close(shares, torch.tensor(0.5), rtol=0, atol=0.03)


def test_samples_have_the_covariance_of_the_latents() -> None:
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-0.5, 0.2, 2.0]])
    latents = torch.randn(3000, 3, generator=seeded()) @ mixing.T + 4
    density = LatentDensity(3, (), components=1)
    density.fit(latents, torch.zeros(3000, 0, dtype=torch.int64))
    drawn = density.sample(torch.zeros(30_000, 0, dtype=torch.int64), seeded())
    torch.testing.assert_close(drawn.T.cov(), latents.T.cov(), rtol=0.03, atol=0.05)
    torch.testing.assert_close(drawn.mean(dim=0), latents.mean(dim=0), rtol=0, atol=0.05)


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e20])
def test_latents_that_say_the_same_twice_are_fitted_at_any_scale(scale: float) -> None:
    """An encoder that ran away must not end a training that is done otherwise."""
    own = torch.randn(1000, 3, generator=seeded())
    latents = torch.cat([scale * own, scale * own[:, :1], own[:, 1:2]], dim=1)
    density = LatentDensity(5, (2,), components=3)
    density.fit(latents, (torch.arange(1000) % 2)[:, None])
    drawn = density.sample(column(20_000), seeded())
    torch.testing.assert_close(drawn.std(dim=0), latents.std(dim=0), rtol=0.1, atol=0)
    torch.testing.assert_close(drawn[:, 0], drawn[:, 3], rtol=0, atol=0.01 * scale)
    torch.testing.assert_close(drawn[:, 1], scale * drawn[:, 4], rtol=0, atol=0.01 * scale)


def test_log_density_is_scikit_learns() -> None:
    latents = torch.cat([planted(300, [-1.0, 2.0, 5.0], dim=3), planted(300, [1.0, 9.0], dim=3)])
    conditions = torch.cat([column(300, 0), column(300, 1)])
    density = LatentDensity(3, (2,), components=3)
    density.fit(latents, conditions)
    own = latents[300:].double().numpy()
    reference = GaussianMixture(3, reg_covar=1e-6, max_iter=200, random_state=0).fit(own)
    points = np.random.default_rng(0).normal(3, 3, (50, 3))
    found = density.log_prob(torch.from_numpy(points).float(), column(50, 1))
    torch.testing.assert_close(found.double(), torch.from_numpy(reference.score_samples(points)), rtol=1e-3, atol=1e-3)


def test_a_fit_is_the_same_each_time_and_may_be_done_again() -> None:
    one, two = (LatentDensity(4, (3,), components=5) for _ in range(2))
    latents = torch.randn(2000, 4, generator=seeded())
    conditions = (torch.arange(2000) % 3)[:, None]
    one.fit(latents, conditions // 2)
    # Here the value 2 has a mixture of its own, there it has not.
    two.fit(3 * latents + 1, conditions)
    two.fit(latents, conditions // 2)
    for name, buffer in one.state_dict().items():
        torch.testing.assert_close(buffer, two.state_dict()[name], rtol=0, atol=0)


def test_saved_and_loaded_it_gives_the_same_latents() -> None:
    one, two = (LatentDensity(2, (2, 3), components=2) for _ in range(2))
    conditions = torch.stack([torch.arange(600) % 2, torch.arange(600) % 3], dim=1)
    one.fit(torch.randn(600, 2, generator=seeded()) + conditions, conditions)
    two.load_state_dict(one.state_dict())
    drawn = [density.sample(conditions, seeded(5)) for density in (one, two)]
    torch.testing.assert_close(*drawn, rtol=0, atol=0)
    assert not torch.equal(drawn[0], one.sample(conditions, seeded(6)))


def test_buffers_have_one_shape_whatever_the_data() -> None:
    fitted, fresh = (LatentDensity(2, (2, 3), components=2) for _ in range(2))
    fitted.fit(torch.randn(600, 2), torch.randint(0, 2, (600, 2)))
    shapes = {name: buffer.shape for name, buffer in fresh.state_dict().items()}
    assert {name: buffer.shape for name, buffer in fitted.state_dict().items()} == shapes


def test_diverged_latents_change_nothing() -> None:
    density = LatentDensity(2, (2,), components=2)
    density.fit(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), column(2))
    torch.testing.assert_close(density.log_prob(torch.zeros(1, 2), column(1)).exp().item(), 1 / (2 * np.pi))


def two_conditions() -> tuple[LatentDensity, Tensor]:
    """D is 2: from 8 images on a mixture has a component of its own, from 16 on two.

    Combinations: (0, 0) has 300 images around -3 and 3; (0, 1) has 8 around 20, all alike but for
    0.01; (0, 2) has 3 around 40; (1, *) has 3 around -50; (2, *) has none.
    """
    latents = torch.cat(
        [planted(300, [-3.0, 3.0]), 20 + 0.01 * torch.randn(8, 2, generator=seeded()), planted(3, [40.0])]
    )
    conditions = torch.cat([torch.tensor([[0, 0]] * 300), torch.tensor([[0, 1]] * 8), torch.tensor([[0, 2]] * 3)])
    latents = torch.cat([latents, planted(3, [-50.0])])
    conditions = torch.cat([conditions, torch.tensor([[1, 0]] * 3)])
    density = LatentDensity(2, (3, 3), components=2)
    density.fit(latents, conditions)
    return density, latents


def draw(density: LatentDensity, first: int, second: int, count: int = 2000) -> Tensor:
    return density.sample(torch.tensor([[first, second]] * count), seeded())


def test_a_combination_with_many_images_has_its_own_mixture() -> None:
    density, _ = two_conditions()
    drawn = draw(density, 0, 0)
    assert ((drawn.abs() - 3).abs() < 1).all()
    assert 0.4 < (drawn[:, 0] > 0).float().mean() < 0.6


def test_a_combination_with_few_images_has_its_own_place() -> None:
    density, _ = two_conditions()
    drawn = draw(density, 0, 1)
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([20.0, 20.0]), rtol=0, atol=0.3)


def test_a_combination_with_fewer_takes_its_first_conditions_mixture() -> None:
    density, latents = two_conditions()
    by_first = LatentDensity(2, (3,), components=2)
    by_first.fit(latents, torch.cat([column(311, 0), column(3, 1)]))
    points = torch.tensor([[-3.0, -3.0], [20.0, 20.0], [40.0, 40.0]])
    torch.testing.assert_close(
        density.log_prob(points, torch.tensor([[0, 2]] * 3)), by_first.log_prob(points, column(3, 0))
    )


@pytest.mark.parametrize("first", [1, 2])
def test_a_value_with_few_images_or_none_takes_the_mixture_of_all(first: int) -> None:
    density, _ = two_conditions()
    everything = density.sample(torch.tensor([[2, 2]] * 500), seeded())
    torch.testing.assert_close(draw(density, first, 1, 500), everything, rtol=0, atol=0)
    assert (everything[:, 0] < 10).float().mean() > 0.8


def test_few_images_share_the_covariance_that_combinations_have_on_average() -> None:
    """16 dimensions: 64 images for a mixture, and from 8 on a Gaussian with a shared covariance."""
    dim, counts = 16, (1000, 20)
    deviation = torch.linspace(0.1, 2.0, dim)
    conditions = torch.cat([torch.tensor([[0, second]] * count) for second, count in enumerate(counts)])
    latents = torch.randn(len(conditions), dim, generator=seeded()) * deviation + 10 * conditions[:, 1:]
    density = LatentDensity(dim, (1, 2), components=1)
    density.fit(latents, conditions)
    drawn = draw(density, 0, 1, 20_000)
    torch.testing.assert_close(drawn.std(dim=0), deviation, rtol=0.2, atol=0.1)
    torch.testing.assert_close(drawn.mean(dim=0), latents[1000:].mean(dim=0), rtol=0, atol=0.1)


def test_combinations_beyond_the_room_take_their_first_conditions_mixture() -> None:
    """Room for 2 components; of 30 combinations the two with most images get them."""
    counts = [40 if second in (7, 9) else 20 for second in range(30)]
    conditions = torch.cat([torch.tensor([[0, second]] * count) for second, count in enumerate(counts)])
    latents = torch.randn(len(conditions), 2, generator=seeded()) * 0.1 + conditions[:, 1:]
    density = LatentDensity(2, (1, 30), components=1)
    density.fit(latents, conditions)
    spreads = [draw(density, 0, second)[:, 0].std() for second in range(30)]
    assert [second for second, spread in enumerate(spreads) if spread < 1] == [7, 9]


def test_the_last_combination_gets_what_room_is_left() -> None:
    """Room for 6 components: the first takes 3, the second 2; the third has images for 2, and room for 1."""
    counts = [40, 20, 18]
    conditions = torch.cat([torch.tensor([[0, second]] * count) for second, count in enumerate(counts)])
    latents = torch.randn(len(conditions), 2, generator=seeded()) * 0.1 + 10 * conditions[:, 1:]
    density = LatentDensity(2, (1, 3), components=3)
    density.fit(latents, conditions)
    drawn = draw(density, 0, 2)
    torch.testing.assert_close(drawn, torch.full_like(drawn, 20.0), rtol=0, atol=2.0)


def chunked(images: Tensor, conditions: Tensor, size: int = 7) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(zip(images.split(size), conditions.split(size), strict=True))


def encode(images: Tensor, _: Tensor) -> Tensor:
    return images.flatten(1)


def test_all_images_are_encoded_up_to_the_limit() -> None:
    images, conditions = torch.arange(50.0).view(50, 1, 1, 1), torch.arange(50)[:, None]
    latents, found = encoded_images(lambda: chunked(images, conditions), encode, 50)
    torch.testing.assert_close(latents, images.flatten(1))
    torch.testing.assert_close(found, conditions)


def test_above_the_limit_images_are_taken_evenly_whatever_their_order() -> None:
    images = torch.arange(1000.0).view(1000, 1, 1, 1)
    conditions = torch.stack([torch.arange(1000) % 10, torch.arange(1000) // 100], dim=1)
    latents, found = encoded_images(lambda: chunked(images, conditions), encode, 300)
    assert len(latents) == 300
    torch.testing.assert_close(latents[:, 0].long() % 10, found[:, 0])
    for kind in (0, 1):
        assert found[:, kind].bincount(minlength=10).min() >= 25
