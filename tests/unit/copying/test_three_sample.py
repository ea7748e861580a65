import math

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from components.copying.three_sample import copying_score, fit_cells, nearest_cells


def test_is_the_weighted_mean_of_mann_and_whitneys_z() -> None:
    generator = np.random.default_rng(0)
    held, fake = generator.random(300), generator.random(200) + 0.1
    held_cells = np.array([0, 1, 1, 2])[np.arange(300) % 4]
    fake_cells = np.arange(200) % 2  # the third cell has no sample
    scores, weights = [], []
    for cell in (0, 1):
        one, other = fake[fake_cells == cell], held[held_cells == cell]
        statistic = mannwhitneyu(one, other).statistic
        n, m = len(one), len(other)
        scores.append((statistic - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))
        weights.append(m)
    found = copying_score(*(torch.from_numpy(part) for part in (held, held_cells, fake, fake_cells)))
    assert math.isclose(found, np.average(scores, weights=weights), rel_tol=1e-9)


def test_equal_distances_give_zero_and_nearer_ones_less() -> None:
    distances, cells = torch.rand(200, generator=torch.Generator().manual_seed(1)), torch.zeros(200)
    assert abs(copying_score(distances, cells, distances, cells)) < 1e-9
    assert copying_score(distances, cells, torch.zeros(200), cells) < -10
    assert copying_score(distances, cells, distances + 1, cells) > 10


def test_cannot_tell_without_numbers_or_enough_images() -> None:
    distances, cells = torch.rand(20), torch.zeros(20)
    assert math.isnan(copying_score(distances, cells, distances[:5], cells[:5]))
    assert math.isnan(copying_score(distances, cells, torch.full((20,), math.nan), cells))


def test_cells_are_where_the_photos_are() -> None:
    generator = torch.Generator().manual_seed(2)
    places = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    photos = (places[:, None] + 0.1 * torch.randn(3, 40, 2, generator=generator)).flatten(0, 1)
    centres = fit_cells(photos, held_out=150, seed=3)
    assert len(centres) == 3
    assert torch.equal(centres, fit_cells(photos, held_out=150, seed=3))
    cells = nearest_cells(photos, centres).view(3, 40)
    assert all(len(row.unique()) == 1 for row in cells)
    assert len(cells[:, 0].unique()) == 3
    assert len(fit_cells(photos, held_out=20, seed=3)) == 1
