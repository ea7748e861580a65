"""Settings that change: against their formulas, and what the optimisers make of them."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from components.errors import InputError
from components.generative import Step
from components.settings import Cosine, OptimizerSettings, check
from components.training.schedules import optimizer_for, schedule_optimizer, value_at

COSINE = Cosine(start=2.0, end=0.5, share=0.8)


def settings(**changed: Any) -> OptimizerSettings:
    plain = {"lr": 0.01, "beta1": 0.5, "beta2": 0.9, "weight_decay": 0.0, "warmup": 0}
    return OptimizerSettings(**{**plain, **changed})


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 2.0), (0.2, 0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2), (0.4, 1.25), (0.8, 0.5), (1.0, 0.5)],
)
def test_a_cosine_goes_from_start_to_end_and_stays(progress: float, expected: float) -> None:
    assert value_at(COSINE, progress) == pytest.approx(expected, rel=1e-12)


def test_a_cosine_may_rise() -> None:
    rising = Cosine(start=0.0, end=1.0, share=1.0)
    values = [value_at(rising, tenths / 10) for tenths in range(11)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.0, 1.0)


def test_a_number_stays_the_same() -> None:
    assert [value_at(0.3, progress) for progress in (0.0, 1.0)] == [0.3, 0.3]


def test_warm_up_rises_linearly_and_multiplies_the_schedule() -> None:
    found = settings(lr=Cosine(start=1.0, end=0.0, share=1.0), beta2=Cosine(start=0.9, end=0.99, share=1.0), warmup=400)
    optimizer = optimizer_for(nn.Linear(2, 2), found)
    for images, share in ((0, 1 / 400), (199, 0.5), (399, 1.0), (800, 1.0)):
        schedule_optimizer(optimizer, found, Step(0, images, images / 1000, ()))
        half = 0.5 + 0.5 * math.cos(math.pi * images / 1000)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(half * share)
            assert group["betas"] == (0.5, pytest.approx(0.99 - 0.09 * half))


def test_the_scheduled_rate_is_the_one_that_steps_are_made_with() -> None:
    """Adam's first step has the length of the learning rate, whatever the gradient."""
    found = settings(lr=Cosine(start=0.0, end=0.25, share=0.5))
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = optimizer_for(layer, found)
    layer.weight.grad = torch.tensor([[7.0]])
    schedule_optimizer(optimizer, found, Step(1, 100, 0.5, ()))
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.75]]))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.normalised_table = nn.utils.parametrizations.spectral_norm(nn.Embedding(3, 4))
        self.convolution = nn.Conv2d(4, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 1)


def test_weights_decay_but_biases_gains_and_vectors_do_not() -> None:
    torch.manual_seed(0)
    network, found = Mixed(), settings(lr=0.1, weight_decay=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = optimizer_for(network, found)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    schedule_optimizer(optimizer, found, Step(0, 0, 0.0, ()))
    optimizer.step()
    for name, parameter in network.named_parameters():
        kept = 1 - 0.1 * 0.5 if name in ("convolution.weight", "head.weight") else 1.0
        assert torch.allclose(parameter.detach(), kept * before[name]), name


def test_every_weight_is_in_the_optimiser_once() -> None:
    network = Mixed()
    optimizer = optimizer_for(network, settings())
    found = sorted(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
    assert found == sorted(id(parameter) for parameter in network.parameters())


@pytest.mark.parametrize("beta2", ["1.0", '{"start": 0.9, "end": 1.0, "share": 0.5}'])
def test_a_decay_rate_of_one_is_refused(beta2: str) -> None:
    text = f'{{"lr": 0.1, "beta1": 0.0, "beta2": {beta2}, "weight_decay": 0.0, "warmup": 0}}'
    with pytest.raises(InputError, match=r"beta2: .*decay rate must be below 1"):
        check(OptimizerSettings, text, "params.yaml")
