"""The averaged weights against their formula."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from components.networks.averaging import Average


def network(value: float) -> nn.Module:
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    set_all(layer, value)
    return layer


def set_all(layer: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(value)


def weights(average: Average) -> dict[str, torch.Tensor]:
    return average.module.state_dict()


@pytest.mark.parametrize("batch", [1, 10, 100])
def test_after_a_half_life_old_weights_count_half(batch: int) -> None:
    followed = network(4.0)
    average = Average(followed)
    set_all(followed, 2.0)
    for _ in range(100 // batch):
        average.update(batch, half_life=100.0)
    for name, weight in weights(average).items():
        expected = torch.full_like(weight, 2 if "num_batches" in name else 3)
        torch.testing.assert_close(weight, expected)


def test_moving_weights_are_averaged_by_the_formula() -> None:
    followed, expected = network(1.0), 1.0
    average = Average(followed)
    for step in range(1, 6):
        set_all(followed, step)
        average.update(8, half_life=20.0)
        kept = 0.5 ** (8 / 20)
        expected = kept * expected + (1 - kept) * step
    torch.testing.assert_close(weights(average)["0.weight"], torch.full((2, 3), expected))
    torch.testing.assert_close(weights(average)["1.running_var"], torch.full((2,), expected))
    assert weights(average)["1.num_batches_tracked"] == 5


def test_without_a_half_life_it_is_the_network() -> None:
    followed = network(1.0)
    average = Average(followed)
    set_all(followed, 3.0)
    average.update(1, half_life=0.0)
    for name, weight in followed.state_dict().items():
        torch.testing.assert_close(weights(average)[name], weight, rtol=0, atol=0)


def test_it_is_frozen_and_the_network_is_not() -> None:
    followed = network(1.0)
    average = Average(followed)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in followed.parameters())


def test_gradients_do_not_reach_it() -> None:
    followed = network(1.0)
    average = Average(followed)
    average.update(1, half_life=10.0)
    assert all(tensor.grad_fn is None for tensor in average.module.parameters())


def test_its_state_is_the_copy_alone() -> None:
    average = Average(network(1.0))
    assert sorted(average.state_dict()) == sorted(f"module.{name}" for name in network(1.0).state_dict())


def test_giving_back_sets_the_network() -> None:
    followed = network(5.0)
    average = Average(followed)
    average.module.load_state_dict(network(2.0).state_dict())
    average.give_back()
    for name, weight in network(2.0).state_dict().items():
        torch.testing.assert_close(followed.state_dict()[name], weight, rtol=0, atol=0)


def test_a_copied_model_follows_its_own_network() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(1.0)
            self.ema = Average(self.network)

    original = Model()
    copied = copy.deepcopy(original)
    copied.ema.module.load_state_dict(network(2.0).state_dict())
    copied.ema.give_back()
    assert original.network.state_dict()["0.weight"].eq(1.0).all()
    assert copied.network.state_dict()["0.weight"].eq(2.0).all()


@pytest.mark.parametrize("change", [nn.Module.double, lambda module: module.to(memory_format=torch.channels_last)])
def test_it_follows_weights_that_were_moved_or_laid_out_anew(change: Callable[[nn.Module], nn.Module]) -> None:
    followed = nn.Conv2d(2, 2, 3)
    average = Average(followed)
    average.update(1, half_life=1.0)
    change(nn.ModuleList([followed, average]))
    set_all(followed, 7.0)
    average.update(1, half_life=0.0)
    assert all(weight.eq(7.0).all() for weight in weights(average).values())


def test_a_copy_made_in_the_course_of_a_training_moves_on_its_own() -> None:
    followed = network(1.0)
    average = Average(followed)
    average.update(1, half_life=1.0)
    copied_network, copied = copy.deepcopy((followed, average))
    set_all(copied_network, 5.0)
    copied.update(1, half_life=0.0)
    assert weights(copied)["0.weight"].eq(5.0).all()
    assert weights(average)["0.weight"].eq(1.0).all()


def test_it_is_asked_in_evaluation_mode() -> None:
    average = Average(network(1.0)).train()
    assert not average.network().training
