"""The averaged weights against their formula."""

import copy

import pytest
import torch
from torch import nn

from components.networks.averaging import Average


def network(value: float) -> nn.Module:
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(value)
    return layer


def weights(average: Average) -> dict[str, torch.Tensor]:
    return average.module.state_dict()


@pytest.mark.parametrize("batch", [1, 10, 100])
def test_after_a_half_life_old_weights_count_half(batch: int) -> None:
    old, new = network(4.0), network(2.0)
    average = Average(old)
    for _ in range(100 // batch):
        average.update(new, batch, half_life=100.0)
    for name, weight in weights(average).items():
        expected = torch.full_like(weight, 2 if "num_batches" in name else 3)
        torch.testing.assert_close(weight, expected)


def test_moving_weights_are_averaged_by_the_formula() -> None:
    average, expected = Average(network(1.0)), 1.0
    for step in range(1, 6):
        average.update(network(float(step)), 8, half_life=20.0)
        kept = 0.5 ** (8 / 20)
        expected = kept * expected + (1 - kept) * step
    torch.testing.assert_close(weights(average)["0.weight"], torch.full((2, 3), expected))
    torch.testing.assert_close(weights(average)["1.running_var"], torch.full((2,), expected))
    assert weights(average)["1.num_batches_tracked"] == 5


def test_without_a_half_life_it_is_the_network() -> None:
    torch.manual_seed(0)
    average, new = Average(nn.Linear(3, 2)), nn.Linear(3, 2)
    average.update(new, 1, half_life=0.0)
    for name, weight in new.state_dict().items():
        torch.testing.assert_close(weights(average)[name], weight, rtol=0, atol=0)


def test_it_is_frozen_and_the_network_is_not() -> None:
    followed = network(1.0)
    average = Average(followed)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in followed.parameters())


def test_gradients_do_not_reach_it() -> None:
    followed = network(1.0)
    average = Average(followed)
    average.update(followed, 1, half_life=10.0)
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


def test_it_is_asked_in_evaluation_mode() -> None:
    average = Average(network(1.0)).train()
    assert not average.network().training
