"""Batch normalisation in two real processes against torch's in one."""

from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from components.generative import average_gradients
from components.networks.batch_norm import BatchNorm

SHAPE = (6, 3, 4, 5)


def inputs() -> tuple[Tensor, Tensor]:
    """Images whose halves differ much, and what the loss weighs the outputs with."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(SHAPE, generator=generator)
    features[3:] = features[3:] * 5 + 100
    return features, torch.randn(SHAPE, generator=generator)


def passed(layer: nn.Module, features: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Forward and backward twice, so that the second pass sees what the first has left."""
    for _ in range(2):
        layer.zero_grad()
        found = features.clone().requires_grad_()
        out = layer(found)
        (out * weights).square().mean().backward()
    average_gradients(list(layer.parameters()))
    gradients = {name: weight.grad for name, weight in layer.named_parameters() if weight.grad is not None}
    assert found.grad is not None
    return {"out": out.detach(), "features": found.grad, **gradients, **dict(layer.named_buffers())}


def layer_of(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    layer = kind(SHAPE[1])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
        layer.bias.copy_(torch.tensor([0.0, -1.0, 3.0]))
    return layer


def half(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    features, weights = (tensor.chunk(2)[rank] for tensor in inputs())
    torch.save(passed(layer_of(BatchNorm), features, weights), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_normalise_as_one_does(tmp_path: Path) -> None:
    expected = passed(layer_of(nn.BatchNorm2d), *inputs())
    processes = [get_context("spawn").Process(target=half, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(first[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=0, msg=name)
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]), expected["out"], rtol=1e-4, atol=1e-5)
    # Each process's loss is the mean of its half, so that these are not yet averaged over the processes.
    gradients = torch.cat([first["features"], second["features"]]) / 2
    torch.testing.assert_close(gradients, expected["features"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_one_process_normalises_as_torch_does(training: bool) -> None:
    ours, theirs = (layer_of(kind).train(training) for kind in (BatchNorm, nn.BatchNorm2d))
    found, expected = passed(ours, *inputs()), passed(theirs, *inputs())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
