"""What makes a training's step faster and leaves its result as it is, but for the rounding.

Compiled networks (Ansel et al., 2024, doi:10.1145/3620665.3640366) have no second derivatives: code that
penalises gradients calls `network.forward`, which is never compiled, instead of the network.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.settings import TrainCommonSettings


def accelerate(model: nn.Module, common: TrainCommonSettings, device: torch.device) -> bool:
    """Readies a model for a fast training, before it goes to the device.

    Names and values of its weights stay as they are: a checkpoint fits, whatever is switched on.

    Args:
        model: the whole model; it is never compiled itself, only the networks in it.
        device: where it will be trained.

    Returns:
        Whether its networks will be compiled, each at its first call.

    Raises:
        InputError: `compile` is `on` and this machine cannot compile.
    """
    # Convolutions take a twentieth to a fifth less time so, on a CPU too: docs/benchmarks.md. Images need
    # no change, since each convolution follows its weights.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cuda":
        # TF32 in what bf16 leaves in float32, and the fastest convolution for each shape, found by trying.
        # That may be another one each time: a GPU repeats a training only to within rounding.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    compiled = _shall_compile(common.compile, device)
    if compiled:
        for network in outermost_networks(model):
            # In place: a wrapper around the network would change the names of its weights.
            network.compile(dynamic=False)
    return compiled


def outermost_networks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules below a model that are called as a whole: the outermost with a forward pass and trained weights.

    Averaged copies have none such: they are called between steps, and would be compiled for each size of a chunk.
    """
    for child in module.children():
        if not any(parameter.requires_grad for parameter in child.parameters()):
            continue
        if type(child).forward is nn.Module.forward:
            yield from outermost_networks(child)
        else:
            yield child


def _shall_compile(setting: str, device: torch.device) -> bool:
    """Whether to compile, by the setting and by whether it works here."""
    # On a CPU, compiling takes longer than it saves in a training of minutes: docs/benchmarks.md.
    if setting == "off" or (setting == "auto" and device.type != "cuda"):
        return False
    reason = why_not_compile(device)
    if reason is None:
        return True
    if setting == "on":
        raise InputError(
            f"params.yaml: train.common.compile is 'on', but torch.compile does not work here: {reason}; "
            "install a C++ compiler (Debian: apt-get install g++), or set it to 'off'"
        )
    warnings.warn(f"the networks are not compiled, for torch.compile does not work here: {reason}", stacklevel=2)
    return False


def why_not_compile(device: torch.device) -> str | None:
    """Compiles a line of code and runs it; why that failed, or None."""

    def line(numbers: Tensor) -> Tensor:
        return numbers.sin() + 1

    numbers = torch.ones(8, device=device)
    try:
        found = torch.compile(line)(numbers)
    # A missing compiler or library: each comes as an error of another kind.
    except (RuntimeError, ImportError, OSError) as error:
        said = str(error).strip() or type(error).__name__
        return said.splitlines()[0]
    return None if torch.allclose(found, line(numbers)) else "what was compiled computes something else"
