"""What each family's step does with its settings, seen in real trainings of tiny networks on tiny images."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from components import generative
from components.augment import augment
from components.dataset import load_info
from components.generative import GenerativeModel, MicroBatch, Objective, Step, build
from components.models import available_models
from components.networks.averaging import Average
from components.settings import AugmentSettings
from tests.networks import COMMON
from tests.prepared import write_prepared
from tests.small import small_settings, trained

STEPS, BATCH = 8, 8
IMAGES = STEPS * BATCH

NETWORKS = {
    "gan": {"generator_optimizer": "generator", "discriminator_optimizer": "discriminator"},
    "vae": {"optimizer": "networks"},
    "vae_gan": {"autoencoder_optimizer": "networks", "discriminator_optimizer": "discriminator"},
}
"""Per family and settings of an optimiser: the network that it trains."""


@pytest.fixture(params=available_models())
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared", channels=3, size=8)


def model_of(family: str, prepared: Path, **changes: Any) -> GenerativeModel:
    torch.manual_seed(0)
    settings = small_settings(family, **{"batch_size": BATCH, "images": IMAGES, **changes})
    return build(family, settings, load_info(prepared))


class BeforeEachStep(Callback):
    """Calls a function with each optimiser just before it changes weights."""

    def __init__(self, call: Callable[[torch.optim.Optimizer], None]) -> None:
        self.call = call

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(lambda found, *_: self.call(cast(torch.optim.Optimizer, found)))


def trains(optimizer: torch.optim.Optimizer, network: Any) -> bool:
    """Whether the optimiser has the network's weights, all of them and no others."""
    own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    return own == {id(weight) for weight in network.parameters()}


def half_cosine(start: float, end: float, share: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress / share))) / 2


def test_each_optimiser_follows_its_own_schedule(family: str, prepared: Path) -> None:
    scheduled: dict[str, dict[str, Any]] = {}
    for number, key in enumerate(NETWORKS[family], start=1):
        lr = {"start": 0.01 * number, "end": 0.001 * number, "share": 1.0 / number}
        beta2 = {"start": 0.9, "end": 0.9 + 0.02 * number, "share": 1.0}
        scheduled[key] = {"lr": lr, "beta1": 0.1 * number, "beta2": beta2, "weight_decay": 0.0, "warmup": 24 * number}
    model = model_of(family, prepared, **scheduled)
    found: dict[str, list[tuple[float, float, float]]] = {key: [] for key in scheduled}

    def note(optimizer: torch.optim.Optimizer) -> None:
        (key,) = [key for key, name in NETWORKS[family].items() if trains(optimizer, getattr(model, name))]
        (rates,) = {(group["lr"], *group["betas"]) for group in optimizer.param_groups if group["params"]}
        found[key].append(rates)

    trained(model, prepared, STEPS, callbacks=[BeforeEachStep(note)])
    for key, settings in scheduled.items():
        expected = [
            (
                half_cosine(**settings["lr"], progress=step / STEPS)
                * min(1.0, (step * BATCH + 1) / settings["warmup"]),
                settings["beta1"],
                half_cosine(**settings["beta2"], progress=step / STEPS),
            )
            for step in range(STEPS)
        ]
        assert [value for rates in found[key] for value in rates] == pytest.approx([v for row in expected for v in row])


def test_a_step_knows_how_much_of_the_training_is_done(family: str, prepared: Path, monkeypatch: Any) -> None:
    model, steps = model_of(family, prepared, accumulate=2), []
    optimise = model.optimise

    def noted(step: Step) -> dict[str, Tensor]:
        steps.append(step)
        return optimise(step)

    monkeypatch.setattr(model, "optimise", noted)
    # Longer than the settings say, which nothing but a test can be.
    trained(model, prepared, STEPS + 2)
    assert [step.number for step in steps] == list(range(STEPS + 2))
    assert [step.images_seen for step in steps] == [number * BATCH for number in range(STEPS + 2)]
    assert [step.progress for step in steps] == pytest.approx([number / STEPS for number in range(STEPS)] + [1.0, 1.0])
    assert all(len(part.images_NCHW) == BATCH // 2 for step in steps for part in step.parts)


def objectives_of(model: GenerativeModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, dict[str, float]]]:
    """Collects the losses that are minimised from now on, with the scalars that are told of them."""
    found: list[tuple[float, dict[str, float]]] = []
    update = model.update

    def noted(optimizer: torch.optim.Optimizer, step: Step, objective: Objective) -> dict[str, Tensor]:
        def observed(part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, scalars = objective(part)
            found.append((float(loss.detach()), {name: float(value.detach()) for name, value in scalars.items()}))
            return loss, scalars

        return update(optimizer, step, observed)

    monkeypatch.setattr(model, "update", noted)
    return found


@pytest.mark.parametrize("family", ["vae", "vae_gan"])
def test_the_loss_has_the_divergence_with_its_weight_warmed_up(
    family: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(family, prepared, beta=4.0, kl_warmup=IMAGES // 2)
    found = objectives_of(model, monkeypatch)
    trained(model, prepared, STEPS)
    settings: Any = model.settings
    weights, values = [], 3 * 8 * 8
    for loss, scalars in found:
        if "kl" not in scalars:
            continue
        if family == "vae":
            weights.append((loss - scalars["nll"]) / scalars["kl"])
        else:
            others = settings.pixels * scalars["nll"] / values + settings.features * scalars["nll_features"]
            weights.append((loss - others - settings.adversarial * scalars["loss_generator"]) / scalars["kl"] * values)
    expected = [min(1.0, (step + 1) / (STEPS // 2)) * 4.0 for step in range(STEPS)]
    assert weights == pytest.approx(expected, rel=0.01)


class AfterEachStep(Callback):
    """Notes a model's averaged and trained weights; for blocks of one step."""

    def __init__(self) -> None:
        self.noted: list[list[tuple[Tensor, Tensor]]] = []

    def note(self, model: LightningModule) -> None:
        (average,) = (module for module in model.modules() if isinstance(module, Average))
        (followed,) = average._followed
        pairs = zip(average.module.parameters(), followed.parameters(), strict=True)
        self.noted.append([(mine.detach().clone(), theirs.detach().clone()) for mine, theirs in pairs])

    def on_train_start(self, _trainer: Trainer, module: LightningModule) -> None:
        self.note(module)

    def on_train_batch_end(self, _trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.note(module)


def test_what_is_served_follows_the_training_with_the_half_life_of_the_settings(family: str, prepared: Path) -> None:
    half_life = {"start": 4.0, "end": 40.0, "share": 1.0}
    model, after = model_of(family, prepared, ema_half_life=half_life), AfterEachStep()
    trained(model, prepared, STEPS, block=1, callbacks=[after])
    for step, (before, now) in enumerate(zip(after.noted, after.noted[1:], strict=False)):
        share = 1 - 0.5 ** (BATCH / half_cosine(**half_life, progress=step / STEPS))
        for (mine_before, _), (mine, theirs) in zip(before, now, strict=True):
            torch.testing.assert_close(mine, mine_before + share * (theirs - mine_before), rtol=1e-4, atol=1e-6)
    served = {tensor.data_ptr() for tensor in model.sampling_state().values()}
    (average,) = (module for module in model.modules() if isinstance(module, Average))
    assert {weight.data_ptr() for weight in average.parameters()} <= served
    moved = [
        not torch.equal(mine, first) for (mine, _), (first, _) in zip(after.noted[-1], after.noted[0], strict=True)
    ]
    assert all(moved)


def gradient_norm(optimizer: torch.optim.Optimizer) -> float:
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_every_network_are_clipped_at_the_norm_that_is_set(
    family: str, accumulate: int, prepared: Path
) -> None:
    norms: dict[float | None, dict[int, list[float]]] = {None: {}, 1e-3: {}}
    for clip, found in norms.items():
        model = model_of(family, prepared, gradient_clip=clip, accumulate=accumulate)

        def note(optimizer: torch.optim.Optimizer, found: dict[int, list[float]] = found) -> None:
            found.setdefault(id(optimizer), []).append(gradient_norm(optimizer))

        trained(model, prepared, 3, callbacks=[BeforeEachStep(note)])
    assert len(norms[None]) == len(norms[1e-3]) == len(NETWORKS[family])
    assert all(min(found) > 2e-3 for found in norms[None].values())
    assert all(found == pytest.approx([1e-3] * 3, rel=1e-3) for found in norms[1e-3].values())


def test_gradients_are_averaged_over_the_processes_before_they_are_clipped(
    family: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other processes whose gradients leave 1 everywhere, equal shares of the norm remain."""

    def to_ones(parameters: Sequence[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)

    monkeypatch.setattr(generative, "average_gradients", to_ones)
    found: list[tuple[float, set[float]]] = []

    def note(optimizer: torch.optim.Optimizer) -> None:
        gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
        found.append((gradient_norm(optimizer), {value for part in gradients for value in part.unique().tolist()}))

    trained(model_of(family, prepared, gradient_clip=0.5), prepared, 2, callbacks=[BeforeEachStep(note)])
    assert len(found) == 2 * len(NETWORKS[family])
    assert all(norm == pytest.approx(0.5, rel=1e-3) and len(values) == 1 for norm, values in found)


ASKS = (
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.equal,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
)
"""What needs the device's answer: a tensor's value, as for `float` and `if`, or how many there are of something."""


class NoWaitingInOperators(TorchDispatchMode):
    """Refuses operators that wait for the device, wherever they are called from; on a CPU all of them just answer."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = args[1] if func.overloadpacket is torch.ops.aten.index else ()
        masked = any(mask is not None and mask.dtype in (torch.bool, torch.uint8) for mask in masks)
        assert func.overloadpacket not in ASKS, f"{func} waits for the device"
        assert not masked, f"{func} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


class NoWaitingInMethods(TorchFunctionMode):
    """The same for methods of tensors that on a CPU call no operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (Tensor.tolist, Tensor.numpy, Tensor.cpu), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def under_modes(function: Callable[..., Any], *args: Any) -> Any:
    with NoWaitingInOperators(), NoWaitingInMethods():  # type: ignore[no-untyped-call]
        return function(*args)


def asking(way: str) -> Any:
    tensor = torch.ones(3)
    ways: dict[str, Callable[[], Any]] = {
        "item": lambda: tensor[0].item(),
        "float": lambda: float(tensor.sum()),
        "if": lambda: 1 if tensor.sum() > 2 else 0,
        "tolist": tensor.tolist,
        "cpu": tensor.cpu,
        "numpy": tensor.numpy,
        "equal": lambda: torch.equal(tensor, tensor),
        "mask": lambda: tensor[tensor > 0],
        "nonzero": lambda: tensor.nonzero(),
    }
    return ways[way]()


@pytest.mark.parametrize("way", ["item", "float", "if", "tolist", "cpu", "numpy", "equal", "mask", "nonzero"])
def test_what_waits_for_the_device_is_noticed_here(way: str) -> None:
    asking(way)
    with pytest.raises(AssertionError, match="waits for the device"):
        under_modes(asking, way)


R1 = {"gamma": 1.0, "every": 1, "method": "exact"}
DIFFERENCE = {"gamma": 1.0, "every": 2, "method": "finite_difference"}
SHOWN = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.9, "translate": 0.125, "cutout": 0.5}
ADAPTIVE = {"start": 0.2, "target": 0.6, "images": 1000}


def networks(architecture: str, **of_discriminator: Any) -> dict[str, Any]:
    """Both networks of a GAN."""
    common = {"architecture": architecture, "width": 8, "max_width": 16, "dropout": 0.1, **COMMON[architecture]}
    discriminator = {"multi_scale": False, "spectral_norm": False, **of_discriminator}
    return {"generator": common | {"embedding_dim": 3}, "discriminator": common | discriminator}


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("gan", {}),
    ("gan", {**networks("r3gan"), "penalties": {"r1": R1, "r2": R1, "gradient_penalty": None}}),
    ("gan", {**networks("resnet", multi_scale=True, spectral_norm=True), "loss": "hinge", "accumulate": 2}),
    ("gan", {"augment": {"probability": ADAPTIVE, **SHOWN}, "discriminator_steps": 2, "gradient_clip": 1.0}),
    ("gan", {"penalties": {"r1": DIFFERENCE, "r2": None, "gradient_penalty": {"gamma": 10.0, **R1}}}),
    ("vae", {}),
    ("vae", {"laplacian": 1.0, "perceptual": 1.0, "accumulate": 2, "gradient_clip": 1.0}),
    ("vae_gan", {}),
    ("vae_gan", {"loss": "relativistic", "penalties": {"r1": R1, "r2": R1, "gradient_penalty": None}, "accumulate": 2}),
]


@pytest.mark.parametrize(("family", "options"), OPTIONS)
def test_a_step_never_waits_for_the_device(
    family: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = write_prepared(tmp_path, channels=3, size=16)
    model = model_of(family, prepared, **options)
    changes = {"flip": 0.5, "translate": 0.1, "scale": 0.1, "rotate": 5.0, "crop": 0.1, "noise": 0.1, "cutout": 0.5}
    colors = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1}
    everything = AugmentSettings.model_validate({"flip_not": {"category": ["bag"]}, **changes, **colors})
    model.augmentation = partial(augment, settings=everything, attributes=load_info(prepared).attributes)
    for name in ("_step", "optimise"):
        monkeypatch.setattr(model, name, partial(under_modes, getattr(model, name)))
    trained(model, prepared, 4)
