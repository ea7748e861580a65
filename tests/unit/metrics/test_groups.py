"""Groups of the jackknife and sums without one of them."""

import math

import pytest
import torch
from torch.testing import assert_close

from components.measurement import GROUPS
from components.metrics.groups import counts_without_each, deal_groups, group_sums, totals, with_replicates


def test_groups_are_even_within_each_category_and_over_all() -> None:
    categories = torch.repeat_interleave(torch.arange(3), torch.tensor([105, 47, 250]))
    groups = deal_groups(categories, seed=1)
    for chosen in (categories >= 0, categories == 0, categories == 1, categories == 2):
        counts = torch.bincount(groups[chosen], minlength=GROUPS)
        assert counts.max() - counts.min() <= 1


def test_groups_are_random_and_come_again_with_the_seed() -> None:
    categories = torch.arange(400) % 4
    groups = deal_groups(categories, seed=1)
    assert_close(groups, deal_groups(categories, seed=1))
    assert (groups != deal_groups(categories, seed=2)).any()
    # Neighbouring rows of a category do not simply follow each other.
    steps = (groups[4:] - groups[:-4]) % GROUPS
    assert (steps == 1).double().mean() < 0.2


def test_sums_without_each_group() -> None:
    values, groups = torch.arange(50.0), deal_groups(torch.zeros(50, dtype=torch.int64), seed=3)
    expected = [values.sum(), *(values[groups != group].sum() for group in range(GROUPS))]
    assert_close(totals(group_sums(values, groups)), torch.stack(expected).double())
    expected = [torch.tensor(50), *((groups != group).sum() for group in range(GROUPS))]
    assert_close(counts_without_each(groups), torch.stack(expected).double())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite(bad: float) -> None:
    values = torch.ones(GROUPS + 1)
    values[4] = bad
    found = with_replicates(values)
    assert (found.value, found.replicates) == (1.0, ())
    values[0] = bad
    assert math.isnan(with_replicates(values).value)
