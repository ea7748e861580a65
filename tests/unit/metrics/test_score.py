"""The classifier score against its definition."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor
from torch.testing import assert_close

from components.measurement import GROUPS
from components.metrics.groups import deal_groups
from components.metrics.score import classifier_score
from tests.random_features import normal


def by_definition(logits: Tensor) -> float:
    p = scipy.special.softmax(logits.double().numpy(), axis=1)
    return float(np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()))


def dealt(count: int) -> Tensor:
    return deal_groups(torch.zeros(count, dtype=torch.int64), seed=0)


def test_value_and_replicates_equal_the_definition() -> None:
    logits, groups = normal(4, 90, 6) * 3, dealt(90)
    found = classifier_score(logits, groups)
    assert_close(found.value, by_definition(logits), rtol=1e-9, atol=0)
    expected = [by_definition(logits[groups != group]) for group in range(GROUPS)]
    assert_close(list(found.replicates), expected, rtol=1e-9, atol=0)


def test_counts_equally_frequent_certain_classes() -> None:
    assert_close(classifier_score(torch.eye(5).repeat(40, 1) * 100, dealt(200)).value, 5.0)
    assert_close(classifier_score(torch.eye(5)[:1].repeat(50, 1) * 100, dealt(50)).value, 1.0)


def test_a_class_that_only_one_group_has() -> None:
    """Float32 would underflow here, and without that group the class has no share at all: 0 * log(0)."""
    groups = dealt(100)
    logits = torch.eye(5)[torch.where(groups == 0, 4, torch.arange(100) % 4)] * 2000
    found = classifier_score(logits, groups)
    assert_close(found.replicates[0], 4.0, rtol=1e-2, atol=0)
    assert all(math.isfinite(value) for value in found.replicates)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_not_finite(bad: float) -> None:
    logits = normal(4, 90, 6)
    logits[3, 3] = bad
    found = classifier_score(logits, dealt(90))
    assert math.isnan(found.value)
    assert found.replicates == ()
