"""The GAN family: combinations, which weights each loss moves, schedules, and what it tells of itself."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from components.adversarial.losses import GAN_LOSSES
from components.adversarial.penalties import due_penalties
from components.dataset import load_info, load_split
from components.errors import InputError
from components.generative import BlockLog, Step
from components.models.gan import Gan, Settings, build
from components.training.batches import StepBlocks
from components.training.diversity import within_category_distance
from components.training.module import TrainingModule
from tests.prepared import write_prepared
from tests.small import micro_batch, small_settings

GENERATOR = {"width": 4, "max_width": 8, "embedding_dim": 4, "attention": None, "dropout": 0.0}
DISCRIMINATOR = {"width": 4, "max_width": 8, "attention": None, "dropout": 0.0, "multi_scale": False}
NETWORKS: dict[str, dict[str, Any]] = {
    "dcgan": {"blocks": None, "group_size": None},
    "resnet": {"blocks": None, "group_size": None},
    "r3gan": {"blocks": 1, "group_size": 4},
}
NO_PENALTIES: dict[str, Any] = {"r1": None, "r2": None, "gradient_penalty": None}
EXACT = {"gamma": 0.5, "every": 1, "method": "exact"}
ESTIMATED = {"gamma": 0.5, "every": 1, "method": "finite_difference"}
PENALTIES: dict[str, dict[str, Any]] = {
    "none": NO_PENALTIES,
    "exact": {"r1": EXACT, "r2": EXACT, "gradient_penalty": EXACT},
    "estimated": {"r1": ESTIMATED, "r2": ESTIMATED, "gradient_penalty": ESTIMATED},
    "mixed": {"r1": EXACT, "r2": ESTIMATED, "gradient_penalty": None},
}
DIFF_AUGMENT = {"brightness": 0.5, "contrast": 0.5, "saturation": 1.0, "translate": 0.125, "cutout": 0.5}
ADAPTIVE = {"probability": {"start": 0.5, "target": 0.6, "images": 1000}, **DIFF_AUGMENT}
ADAM = {"lr": 0.001, "beta1": 0.0, "beta2": 0.99, "weight_decay": 0.0, "warmup": 0}


def gan_settings(architecture: str = "r3gan", *, spectral_norm: bool = False, **changes: Any) -> Settings:
    """Tiny networks of an architecture; whatever params.yaml has is left out of account."""
    plain = {
        "generator": {"architecture": architecture, **GENERATOR, **NETWORKS[architecture]},
        "discriminator": {
            "architecture": architecture,
            **DISCRIMINATOR,
            **NETWORKS[architecture],
            "spectral_norm": spectral_norm,
        },
        "accumulate": 1,
        "gradient_clip": None,
        "loss": "non_saturating",
        "penalties": NO_PENALTIES,
        "augment": None,
        "discriminator_steps": 1,
        "generator_optimizer": ADAM,
        "discriminator_optimizer": ADAM,
        "ema_half_life": 16,
    }
    settings = small_settings("gan", **(plain | changes))
    assert isinstance(settings, Settings)
    return settings


def untrained(settings: Settings, cardinalities: tuple[int, ...] = (3,), channels: int = 1) -> Gan:
    torch.manual_seed(0)
    return build(settings, (channels, 32, 32), cardinalities)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared")


def trained(model: Gan, prepared: Path, steps: int = 2, precision: Any = "32-true") -> dict[str, list[float]]:
    """Real steps through Lightning in one block; what they logged, by name."""
    split = load_split(prepared, "train")
    size = model.settings.batch_size
    blocks = StepBlocks(split, torch.device("cpu"), batch_size=size, steps=steps, block=steps, seed=1)
    logs: list[BlockLog] = []

    def keep(step: Callable[..., Any], *args: Any) -> Any:
        logs.append(step(*args))
        return logs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "train_block", partial(keep, model.train_block))
        trainer = Trainer(accelerator="cpu", logger=False, barebones=True, max_epochs=1, precision=precision)
        trainer.fit(TrainingModule(model), DataLoader(blocks, batch_size=None))
    (log,) = logs
    return {name: [value for _, value in pairs] for name, pairs in log.values.items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Beginnings of the names of weights that moved."""
    return {
        name.split(".")[0]
        for name, weight in model.named_parameters()
        if weight.requires_grad and not torch.equal(weight, before[name])
    }


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("loss", GAN_LOSSES)
@pytest.mark.parametrize("penalties", PENALTIES)
def test_every_combination_trains(architecture: str, loss: str, penalties: str, prepared: Path) -> None:
    augment = ADAPTIVE if penalties == "mixed" else None
    spectral_norm = architecture != "r3gan" and penalties != "exact"
    settings = gan_settings(
        architecture, spectral_norm=spectral_norm, loss=loss, penalties=PENALTIES[penalties], augment=augment
    )
    model = untrained(settings)
    before = weights(model)
    logged = trained(model, prepared)
    due = [name for name, section in PENALTIES[penalties].items() if section]
    expected = {"loss_discriminator", "loss_generator", "logits_real", "logits_fake", "discriminator_accuracy"}
    expected |= {"diversity_real", "diversity_fake", *due} | ({"augment_probability"} if augment else set())
    assert set(logged) == expected
    assert all(torch.tensor(values).isfinite().all() for values in logged.values())
    assert all(weight.isfinite().all() for weight in weights(model).values())
    assert changed(model, before) == {"generator", "discriminator"}


@pytest.mark.parametrize("architecture", NETWORKS)
def test_bf16_trains(architecture: str, prepared: Path) -> None:
    settings = gan_settings(architecture, loss="relativistic", penalties=PENALTIES["mixed"], augment=ADAPTIVE)
    logged = trained(untrained(settings), prepared, precision="bf16-mixed")
    exact = trained(untrained(settings), prepared)
    assert all(torch.tensor(values).isfinite().all() for values in logged.values())
    for name in ("loss_discriminator", "diversity_real", "r2"):
        assert logged[name][0] == pytest.approx(exact[name][0], rel=0.1)


@pytest.mark.parametrize("cardinalities", [(), (3,), (3, 4, 2)])
def test_any_number_of_attributes(cardinalities: tuple[int, ...]) -> None:
    model = untrained(gan_settings(loss="relativistic", penalties=PENALTIES["exact"]), cardinalities)
    part = micro_batch(8, cardinalities=cardinalities)
    due = due_penalties(model.settings.penalties, Step(0, 0, 0.0, ()))
    loss, scalars = model._discriminate(due, None, part)
    loss.backward()
    model._generate(None, part)[0].backward()
    assert scalars["r1"].isfinite()
    assert model.sample(part.conditions_NA, torch.Generator().manual_seed(0)).shape == (8, 1, 32, 32)


def test_the_objectives_are_loss_and_weighted_penalties() -> None:
    model = untrained(gan_settings("dcgan", loss="hinge", penalties=PENALTIES["exact"]))
    part = micro_batch(8)
    loss, scalars = model._discriminate(due_penalties(model.settings.penalties, Step(0, 0, 0.0, ())), None, part)
    torch.testing.assert_close(
        loss,
        scalars["loss_discriminator"] + 0.25 * scalars["r1"] + 0.25 * scalars["r2"] + 0.5 * scalars["gradient_penalty"],
    )
    fakes = model._fakes(part)
    logits = [model.discriminator(images, part.conditions_NA) for images in (part.images_NCHW, fakes)]
    torch.testing.assert_close(scalars["logits_real"], logits[0].mean())
    torch.testing.assert_close(scalars["logits_fake"], logits[1].mean())
    torch.testing.assert_close(scalars["loss_discriminator"], GAN_LOSSES["hinge"][0](*logits))
    torch.testing.assert_close(scalars["discriminator_accuracy"], (logits[0] > logits[1]).float().mean())
    diversity = [within_category_distance(images, part.conditions_NA) for images in (part.images_NCHW, fakes)]
    torch.testing.assert_close(
        torch.stack(diversity), torch.stack([scalars[f"diversity_{k}"] for k in ("real", "fake")])
    )


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_the_generators_objective_looks_at_reals_only_where_its_loss_does(loss: Any) -> None:
    model = untrained(gan_settings("r3gan", loss=loss))
    part = micro_batch(8)
    found, _ = model._generate(None, part)
    logits = [model.discriminator(images, part.conditions_NA) for images in (part.images_NCHW, model._fakes(part))]
    torch.testing.assert_close(found, GAN_LOSSES[loss][1](*logits))


def test_each_loss_moves_its_own_network_only() -> None:
    model = untrained(gan_settings("dcgan", loss="relativistic", penalties=PENALTIES["mixed"]))
    part = micro_batch(8)
    model._discriminate(due_penalties(model.settings.penalties, Step(0, 0, 0.0, ())), None, part)[0].backward()
    assert all(weight.grad is None for weight in model.generator.parameters())
    assert all(weight.grad is not None for weight in model.discriminator.parameters())
    model.discriminator.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    model._generate(None, part)[0].backward()
    assert all(weight.grad is not None for weight in model.generator.parameters())
    assert all(weight.grad is None for weight in model.discriminator.parameters())


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_shared_fakes_change_nothing_but_the_time(loss: str, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one micro-batch the generator runs once a step; made anew, the same fakes give the same weights."""
    settings = gan_settings(loss=loss, augment=ADAPTIVE)
    one = untrained(settings)
    passes = count_passes(one.generator)
    trained(one, prepared, steps=3)
    assert passes == [8] * 3

    class Anew(Gan):
        def _discriminate(self, due: Any, shared: Any, part: Any) -> Any:  # noqa: ARG002
            return super()._discriminate(due, None, part)

        def _generate(self, shared: Any, part: Any) -> Any:  # noqa: ARG002
            return super()._generate(None, part)

    monkeypatch.setattr("components.models.gan.Gan", Anew)
    other = untrained(settings)
    trained(other, prepared, steps=3)
    for name, weight in one.named_parameters():
        torch.testing.assert_close(weight, dict(other.named_parameters())[name], rtol=1e-5, atol=1e-6)


def count_passes(network: nn.Module) -> list[int]:
    sizes: list[int] = []
    network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_two_micro_batches_have_the_gradients_of_one(loss: str, prepared: Path) -> None:
    """Not the weights: where a gradient is 0 but for rounding, Adam's first step goes by the rounding's sign."""
    # A fixed probability: the adaptive one's sign is taken per micro-batch.
    augment = {"probability": 0.5, **DIFF_AUGMENT}
    gradients = []
    for accumulate in (1, 2):
        slow = {**ADAM, "lr": 1e-6}
        optimizers: dict[str, Any] = {"generator_optimizer": slow, "discriminator_optimizer": slow}
        penalties = PENALTIES["exact"]
        model = untrained(
            gan_settings(loss=loss, penalties=penalties, augment=augment, accumulate=accumulate, **optimizers)
        )
        moved_from_zero(model)
        trained(model, prepared, steps=1)
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    trained_names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert gradients[0].keys() == gradients[1].keys() == trained_names
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, rtol=2e-3, atol=2e-4 * float(gradient.abs().max()) + 1e-7
        )
    assert sum(bool(gradient.abs().max() > 1e-4) for gradient in gradients[0].values()) > len(gradients[0]) - 3


def moved_from_zero(model: Gan) -> None:
    """Weights that start as zeros would hide the gradients of those before them."""
    generator = torch.Generator().manual_seed(1)
    for weight in (*model.generator.parameters(), *model.discriminator.parameters()):
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator))


def test_several_discriminator_steps_leave_the_generator_between_them_alone(prepared: Path) -> None:
    model = untrained(gan_settings("dcgan", loss="wasserstein", discriminator_steps=3))
    before = weights(model)
    logged = trained(model, prepared, steps=2)
    assert changed(model, before) == {"discriminator"}
    assert "loss_generator" not in logged
    model = untrained(gan_settings("dcgan", loss="wasserstein", discriminator_steps=3))
    logged = trained(model, prepared, steps=7)
    assert changed(model, before) == {"discriminator", "generator"}
    assert [len(logged[name]) for name in ("loss_discriminator", "loss_generator")] == [7, 2]


def test_lazy_penalties_are_computed_at_their_steps(prepared: Path) -> None:
    lazy = {"r1": {**EXACT, "every": 3}, "r2": None, "gradient_penalty": {**ESTIMATED, "every": 2}}
    logged = trained(untrained(gan_settings("dcgan", penalties=lazy)), prepared, steps=6)
    assert [len(logged[name]) for name in ("loss_generator", "r1", "gradient_penalty")] == [6, 2, 3]


def test_the_average_follows_with_its_half_life_in_images(prepared: Path) -> None:
    model = untrained(gan_settings(ema_half_life={"start": 8, "end": 8, "share": 1.0}))
    name = "out.0.bias"
    followed = []
    update = model.optimise

    def noting(step: Step) -> dict[str, Tensor]:
        scalars = update(step)
        followed.append(
            (model.generator.get_parameter(name).detach().clone(), model.ema.module.get_parameter(name).clone())
        )
        return scalars

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "optimise", noting)
        trained(model, prepared, steps=4)
    for (_, average), (current, later) in pairwise(followed):
        torch.testing.assert_close(later, (average + current) / 2)


def test_an_adaptive_probability_rises_with_a_discriminator_that_knows_its_images(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And falls with one that does not; 8 images of 1000 a step."""
    found = {}
    for real, expected in ((5.0, 0.5 + 4 * 0.008), (0.0, 0.5 - 4 * 0.008)):
        model = untrained(gan_settings("dcgan", loss="non_saturating", augment=ADAPTIVE))

        def judged(images: Tensor, conditions: Tensor, real: float = real) -> Tensor:  # noqa: ARG001
            half = len(images) // 2
            return images.mean(dim=(1, 2, 3)) * 0 + torch.cat(
                [torch.full((half,), real), torch.zeros(len(images) - half)]
            )

        monkeypatch.setattr(model.discriminator, "forward", judged)
        optimise_without_discriminator(model, monkeypatch)
        found[expected] = trained(model, prepared, steps=4)["augment_probability"][-1]
        assert model.shown is not None
        assert model.shown.probability.item() == pytest.approx(expected)
    assert found == pytest.approx({expected: expected for expected in found})


def optimise_without_discriminator(model: Gan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stand-in has no weights that a loss could move."""
    whole = model.update

    def update(optimizer: Any, step: Step, objective: Any) -> dict[str, Tensor]:
        def with_all(part: Any) -> tuple[Tensor, dict[str, Tensor]]:
            loss, scalars = objective(part)
            return loss + sum(weight.sum() * 0 for weight in model.parameters() if weight.requires_grad), scalars

        return whole(optimizer, step, with_all)

    monkeypatch.setattr(model, "update", update)


def test_reals_and_fakes_are_shown_augmented_and_the_log_is_of_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(gan_settings(loss="relativistic", augment={"probability": 1.0, **DIFF_AUGMENT}))
    part = micro_batch(8)
    seen: list[Tensor] = []
    judged = model.discriminator.forward

    def noting(images: Tensor, conditions: Tensor) -> Tensor:
        seen.append(images)
        return judged(images, conditions)

    monkeypatch.setattr(model.discriminator, "forward", noting)
    _, scalars = model._discriminate({}, None, part)
    model._generate(None, part)
    plain = torch.cat([part.images_NCHW, model._fakes(part).detach()])
    assert [len(images) for images in seen] == [16, 8, 8]
    assert (seen[0] != plain).flatten(1).any(dim=1).all()
    fakes_again, reals_again = seen[1], seen[2]
    assert (fakes_again != seen[0][8:]).flatten(1).any(dim=1).all()
    assert (reals_again != seen[0][:8]).flatten(1).any(dim=1).all()
    torch.testing.assert_close(
        scalars["diversity_real"], within_category_distance(part.images_NCHW, part.conditions_NA)
    )


def test_all_that_training_changes_is_in_the_state(prepared: Path) -> None:
    settings = gan_settings("resnet", spectral_norm=True, augment=ADAPTIVE)
    model = untrained(settings)
    trained(model, prepared, steps=3)
    other = untrained(settings)
    other.load_state_dict(model.state_dict())
    part = micro_batch(8)
    losses = [one._discriminate({}, None, part)[0] for one in (model, other)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert "shown.probability" in model.state_dict()
    assert not any("discriminator" in name or "probability" in name for name in model.sampling_state())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": "vanilla"}, "train.gan.*\n.*loss: found 'vanilla'"),
        ({"penalties": {**NO_PENALTIES, "r1": {**EXACT, "every": 0}}}, "penalties.r1.every: found 0"),
        ({"discriminator_steps": 0}, "discriminator_steps: found 0"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        gan_settings(**change)


def test_the_entries_of_params_yaml_build_at_their_own_size(prepared: Path) -> None:
    settings = small_settings("gan")
    assert isinstance(settings, Settings)
    info = load_info(prepared)
    model = build(settings, info.image_shape, info.cardinalities)
    assert model.sampling_state().keys() == model.ema.module.state_dict().keys()
