"""What every architecture must do: any size, channels and attributes, gradients for all weights, twice."""

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import softplus

from components.errors import InputError
from components.networks.architectures import build_discriminator, build_generator
from components.networks.discriminator import Discriminator
from components.networks.settings import Architecture, GeneratorSettings, UnfitError
from tests.networks import COMMON, discriminator_settings, generator_settings

ARCHITECTURES = get_args(Architecture)

LATENT_DIM = 6


def networks(
    architecture: str,
    image_shape: tuple[int, int, int] = (1, 32, 32),
    cardinalities: tuple[int, ...] = (3,),
    **own: Any,
) -> tuple[nn.Module, Discriminator]:
    torch.manual_seed(0)
    generator = build_generator(generator_settings(architecture), LATENT_DIM, image_shape, cardinalities)
    settings = discriminator_settings(architecture, **own)
    return generator, build_discriminator(settings, image_shape, cardinalities)


def conditions(count: int, cardinalities: tuple[int, ...]) -> Tensor:
    columns = [torch.arange(count) % values for values in cardinalities]
    return torch.stack(columns, dim=1) if columns else torch.empty(count, 0, dtype=torch.int64)


def adversarial_steps(
    generator: nn.Module, discriminator: Discriminator, image_shape: tuple[int, int, int], steps: int, **autocast: Any
) -> None:
    """Both losses and an R1 penalty, one optimiser over all weights."""
    optimizer = torch.optim.Adam([*generator.parameters(), *discriminator.parameters()], lr=1e-3)
    labels = conditions(4, (3,))
    for _ in range(steps):
        reals = torch.randn(4, *image_shape).clamp(-1, 1).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast)):
            logits_fake = discriminator(generator(torch.randn(4, LATENT_DIM), labels), labels).float()
            logits_real = discriminator(reals, labels).float()
            (gradient,) = torch.autograd.grad(logits_real.sum(), reals, create_graph=True)
            loss = (logits_fake.square() + softplus(logits_real)).mean() + gradient.square().sum() / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_name_in_the_settings_builds_its_own_networks(architecture: str) -> None:
    for network in networks(architecture):
        assert type(network).__module__ == f"components.networks.{architecture}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("channels", "size", "cardinalities"), [(1, 16, (2,)), (1, 32, (3,)), (3, 64, (3, 4)), (3, 128, ()), (1, 256, (2,))]
)
def test_shapes_and_ranges(architecture: str, channels: int, size: int, cardinalities: tuple[int, ...]) -> None:
    generator, discriminator = networks(architecture, (channels, size, size), cardinalities)
    labels = conditions(2, cardinalities)
    images = generator(torch.randn(2, LATENT_DIM), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert images.std() > 0.01
    assert discriminator(images, labels).shape == (2,)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_go_down_to_four_pixels_and_are_what_is_judged(architecture: str) -> None:
    _, discriminator = networks(architecture)
    images, labels = torch.randn(2, 1, 32, 32), conditions(2, (3,))
    features = discriminator.features(images)
    before = [map_NCHW.detach().clone() for map_NCHW in features]
    sizes = [map_NCHW.shape[-1] for map_NCHW in features]
    assert sizes == ([32] if architecture == "r3gan" else []) + [16, 8, 4]
    torch.testing.assert_close(discriminator.judge(features, labels), discriminator(images, labels))
    # They are compared between images later on: judging must leave them as they are.
    for map_NCHW, copy in zip(features, before, strict=True):
        torch.testing.assert_close(map_NCHW, copy, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_attribute_matters(architecture: str) -> None:
    generator, discriminator = networks(architecture, cardinalities=(3, 4))
    generator.eval()
    z, images = torch.randn(1, LATENT_DIM), torch.randn(1, 1, 32, 32)
    first, *others = (torch.tensor([row]) for row in ([0, 0], [1, 0], [0, 1]))
    for other in others:
        assert not torch.allclose(generator(z, first), generator(z, other))
        assert not torch.allclose(discriminator(images, first), discriminator(images, other))


@pytest.mark.parametrize("autocast", [{}, {"bfloat16": True}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_three_steps_with_a_penalty_move_every_weight_and_stay_finite(architecture: str, autocast: Any) -> None:
    generator, discriminator = networks(architecture)
    both = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    before = {name: weight.detach().clone() for name, weight in both.named_parameters()}
    adversarial_steps(generator, discriminator, (1, 32, 32), steps=3, **autocast)
    unchanged = [name for name, weight in both.named_parameters() if torch.equal(weight, before[name])]
    assert unchanged == []
    assert all(weight.isfinite().all() for weight in both.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_penaltys_gradient_agrees_with_finite_differences(architecture: str) -> None:
    _, discriminator = networks(architecture)
    discriminator.double()
    for weight in discriminator.parameters():
        nn.init.normal_(weight, 0.0, 0.2)
    images, labels = torch.randn(2, 1, 32, 32, dtype=torch.float64, requires_grad=True), conditions(2, (3,))

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
        return gradient.square().sum()

    weight = next(weight for weight in discriminator.parameters() if weight.dim() == 4)
    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction, step = torch.randn_like(weight), 1e-7
    with torch.no_grad():
        weight.add_(direction, alpha=step)
    above = penalty().detach()
    with torch.no_grad():
        weight.sub_(direction, alpha=2 * step)
    below = penalty().detach()
    torch.testing.assert_close((gradient * direction).sum(), (above - below) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_channels_last_changes_nothing(architecture: str) -> None:
    generator, discriminator = networks(architecture)
    z, labels = torch.randn(3, LATENT_DIM), conditions(3, (3,))
    images = generator(z, labels)
    logits = discriminator(images, labels)
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(generator(z, labels), images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(discriminator(images, labels), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_acts_in_training_alone(architecture: str) -> None:
    torch.manual_seed(0)
    shape, labels = (1, 32, 32), conditions(4, (3,))
    generator = build_generator(generator_settings(architecture, dropout=0.5), LATENT_DIM, shape, (3,))
    discriminator = build_discriminator(discriminator_settings(architecture, dropout=0.5), shape, (3,))
    # R3GAN's branches begin with zeros, which hide what happens inside.
    for weight in [*generator.parameters(), *discriminator.parameters()]:
        nn.init.normal_(weight, 0.0, 0.3)
    for network, inputs in ((generator, torch.randn(4, LATENT_DIM)), (discriminator, torch.randn(4, *shape))):
        assert not torch.equal(network(inputs, labels), network(inputs, labels))
        network.eval()
        torch.testing.assert_close(network(inputs, labels), network(inputs, labels), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["dcgan", "resnet"])
def test_spectral_norm_brings_every_layers_largest_singular_value_to_one(architecture: str) -> None:
    _, discriminator = networks(architecture, spectral_norm=True)
    images, labels = torch.randn(2, 1, 32, 32), conditions(2, (3,))
    for _ in range(150):
        discriminator(images, labels)
    discriminator.eval()
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert layers
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        torch.testing.assert_close(largest, torch.tensor(1.0), rtol=0.03, atol=0)


def test_spectral_norms_estimate_is_state_and_still_in_evaluation() -> None:
    _, discriminator = networks("dcgan", spectral_norm=True)
    images, labels = torch.randn(2, 1, 32, 32), conditions(2, (3,))

    def state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in discriminator.state_dict().items() if name.endswith("._u")}

    before = state()
    discriminator(images, labels)
    after = state()
    assert len(before) == 5
    assert all(not torch.equal(before[name], after[name]) for name in before if before[name].numel() > 1)
    discriminator.eval()(images, labels)
    torch.testing.assert_close(state(), after, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("architecture", "change", "said"),
    [
        ("dcgan", {"attention": 16}, "attention is 16, which architecture 'dcgan' does not have; make it null"),
        ("r3gan", {"attention": 16}, "attention is 16, which architecture 'r3gan' does not have"),
        ("resnet", {"blocks": 2}, "blocks is 2, which .* choose one of \\['r3gan'\\]"),
        ("dcgan", {"group_size": 16}, "group_size is 16, which"),
        ("r3gan", {"blocks": None}, "blocks is null; architecture 'r3gan' needs a number"),
        ("r3gan", {"group_size": None}, "group_size is null; architecture 'r3gan' needs a number"),
        ("r3gan", {"dropout": 1.0}, "less than 1"),
        ("biggan", {}, "'dcgan', 'resnet' or 'r3gan'"),
    ],
)
def test_settings_that_an_architecture_does_not_have_are_refused(
    architecture: str, change: dict[str, Any], said: str
) -> None:
    common = COMMON.get(architecture, COMMON["dcgan"])
    base = {"architecture": architecture, "width": 8, "max_width": 16, "dropout": 0.0, "embedding_dim": 3}
    with pytest.raises(ValidationError, match=said):
        GeneratorSettings.model_validate(base | common | change)


@pytest.mark.parametrize("name", ["multi_scale", "spectral_norm"])
def test_a_discriminators_switches_are_refused_as_well(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is True, which architecture 'r3gan' does not .* make it false"):
        discriminator_settings("r3gan", **{name: True})


@pytest.mark.parametrize("size", [4, 48])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_image_sizes_are_refused(architecture: str, size: int) -> None:
    with pytest.raises(InputError, match=f"images are {size} pixels wide; the networks need a power of two"):
        networks(architecture, (1, size, size))


def test_attention_where_there_is_no_layer_is_refused() -> None:
    with pytest.raises(UnfitError, match=r"^generator\.attention: found 64; this network has layers at \[8, 16, 32\] "):
        build_generator(generator_settings("resnet", attention=64), LATENT_DIM, (1, 32, 32), ())
    with pytest.raises(UnfitError, match=r"^discriminator\.attention: found 32; this network has layers at \[8, 16\] "):
        build_discriminator(discriminator_settings("resnet", attention=32), (1, 32, 32), ())


def test_groups_that_do_not_fit_are_refused() -> None:
    said = r"\.group_size: found 5, a block of \d+ channels has \d+ inside"
    with pytest.raises(UnfitError, match=f"^generator{said}"):
        build_generator(generator_settings("r3gan", group_size=5), LATENT_DIM, (1, 32, 32), ())
    with pytest.raises(UnfitError, match=f"^discriminator{said}"):
        build_discriminator(discriminator_settings("r3gan", group_size=5), (1, 32, 32), ())
