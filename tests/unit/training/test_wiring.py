"""What several processes make of their gradients."""

import pytest
import torch
from torch import Tensor, distributed, nn

from components.generative import average_gradients


def parameters_with_gradients() -> list[nn.Parameter]:
    """Two with gradients, and one that had no part in the loss."""
    shapes = [(2, 3), (4,), (2, 2)]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    parameters[0].grad = torch.arange(6.0).view(2, 3)
    parameters[2].grad = torch.full((2, 2), 10.0)
    return parameters


def test_gradients_are_the_means_over_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be with three processes, of which the others have gradients of 3 and 6 everywhere."""

    def add_others(flat: Tensor) -> None:
        flat += 3.0 + 6.0

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_reduce", add_others)
    first, without, last = parameters_with_gradients()
    average_gradients([first, without, last])
    torch.testing.assert_close(first.grad, (torch.arange(6.0).view(2, 3) + 9.0) / 3)
    torch.testing.assert_close(last.grad, torch.full((2, 2), 19.0 / 3))
    assert without.grad is None


def test_a_single_process_keeps_its_gradients() -> None:
    parameters = parameters_with_gradients()
    average_gradients(parameters)
    torch.testing.assert_close(parameters[0].grad, torch.arange(6.0).view(2, 3), rtol=0, atol=0)
