from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import InputError
from components.networks.averaging import Average
from components.settings import TrainCommonSettings, load_settings
from components.training import acceleration
from components.training.acceleration import accelerate, outermost_networks, why_not_compile

CPU = torch.device("cpu")

# Torch 2.13's compiler imports a part of torch that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2))
        self.head = nn.Conv2d(4, 1, 6)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images_NCHW))
        return logits.flatten()


class Pair(nn.Module):
    """Holds networks and is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
        self.decoders = nn.ModuleList([nn.Linear(4, 4)])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.critic = Critic()
        self.activation = nn.ReLU()
        self.average = Average(self.critic)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return torch.as_tensor(self.critic(images_NCHW))


def is_compiled(network: nn.Module) -> bool:
    return network._compiled_call_impl is not None


def common(**changes: Any) -> TrainCommonSettings:
    return load_settings(Path(__file__).parents[3] / "params.yaml").train.common.model_copy(update=changes)


def test_networks_are_the_outermost_that_are_called_and_trained() -> None:
    model = Model()
    assert list(outermost_networks(model)) == [model.pair.encoder, model.pair.decoders[0], model.critic]


@pytest.mark.parametrize("setting", ["auto", "off"])
def test_on_a_cpu_nothing_is_compiled_unless_asked_for(setting: str) -> None:
    model = Model()
    assert not accelerate(model, common(compile=setting), CPU)
    assert not any(is_compiled(module) for module in model.modules())


def test_weights_lie_with_the_channels_last_and_keep_names_and_values() -> None:
    torch.manual_seed(0)
    model = Model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    accelerate(model, common(), CPU)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]
    assert len(kernels) == 5  # the average's two among them
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert model.critic.body(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), expected)


@pytest.fixture(scope="module")
def compiled() -> Model:
    if reason := why_not_compile(CPU):
        pytest.skip(f"cannot compile here: {reason}")
    torch.manual_seed(0)
    model = Model()
    assert accelerate(model, common(compile="on"), CPU)
    return model


def test_networks_are_compiled_in_place_and_the_model_is_not(compiled: Model) -> None:
    assert [is_compiled(network) for network in outermost_networks(compiled)] == [True] * 3
    assert not is_compiled(compiled)
    assert not is_compiled(compiled.average)
    assert list(compiled.state_dict()) == list(Model().state_dict())


def test_compiled_networks_compute_the_same(compiled: Model) -> None:
    images = torch.randn(2, 3, 8, 8)
    plain = Model()
    plain.load_state_dict(compiled.state_dict())
    torch._dynamo.utils.counters.clear()
    found, expected = compiled(images), plain(images)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    (weight, same) = (next(model.critic.parameters()).grad for model in (compiled, plain))
    torch.testing.assert_close(weight, same)


def test_the_forward_pass_of_a_compiled_network_has_second_derivatives(compiled: Model) -> None:
    """What penalties on gradients rely on; the network's call has none, and says so."""
    images = torch.randn(2, 3, 8, 8, requires_grad=True)

    def penalise(logits: Tensor) -> None:
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        gradient.square().sum().backward()

    compiled.zero_grad()
    penalise(compiled.critic.forward(images))
    assert compiled.critic.body[0].weight.grad is not None
    with pytest.raises(RuntimeError, match="double backward"):
        penalise(compiled.critic(images))


@pytest.mark.parametrize(("setting", "device"), [("on", "cpu"), ("auto", "cuda")])
def test_a_machine_that_cannot_compile_is_told(setting: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "why_not_compile", lambda _: "no compiler found")
    model = Model()
    if setting == "on":
        with pytest.raises(InputError, match=r"train.common.compile is 'on'.*no compiler found.*set it to 'off'"):
            accelerate(model, common(compile=setting), torch.device(device))
    else:
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        before = torch.get_float32_matmul_precision()
        with pytest.warns(UserWarning, match="not compiled.*no compiler found"):
            assert not accelerate(model, common(compile=setting), torch.device(device))
        torch.set_float32_matmul_precision(before)
    assert not any(is_compiled(module) for module in model.modules())


def test_a_missing_compiler_is_found_out_by_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    reason = why_not_compile(CPU)
    torch.compiler.reset()
    assert reason is not None
    assert "compiler" in reason.lower()
