import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from components.dataset import load_info, load_split
from components.generative import load_model, save_model
from components.images import to_float
from components.models import family_settings
from components.models.vae import Settings, Vae
from components.training.batches import training_images
from components.training.draws import whole_batch
from tests.prepared import write_prepared
from tests.small import micro_batch, shrunk, small_settings, trained

SHAPE = (1, 32, 32)


def vae(cardinalities: tuple[int, ...] = (3,), shape: tuple[int, int, int] = SHAPE, **changes: Any) -> Vae:
    settings = small_settings("vae", **changes)
    assert isinstance(settings, Settings)
    torch.manual_seed(0)
    return Vae(settings, shape, cardinalities)


def gradients(model: Vae, *losses: Tensor) -> Tensor:
    """Of the mean of the losses by all weights, in one row."""
    weights = list(model.networks.parameters())
    found = torch.autograd.grad(torch.stack(losses).mean(), weights, allow_unused=True)
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None])


def test_loss_is_likelihood_and_weighted_divergence() -> None:
    model, part = vae(), micro_batch()
    loss, scalars = model._loss(0.25, part)
    mean, log_variance = model.networks.encoder(part.images_NCHW, part.conditions_NA)
    z = mean + part.draws.normal("latents", 8) * (log_variance / 2).exp()
    made = model.networks.decoder(z, part.conditions_NA)
    sigma = (made - part.images_NCHW).square().mean().sqrt()
    nll = -Normal(made, sigma).log_prob(part.images_NCHW).sum(dim=(1, 2, 3)).mean()
    # At the start the prior is N(0, 1) for all.
    kl = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1).mean()
    torch.testing.assert_close(loss, nll + 0.25 * kl)
    for name, expected in {"nll": nll, "kl": kl, "negative_elbo": nll + kl, "sigma": sigma}.items():
        torch.testing.assert_close(scalars[name], expected)
    assert set(scalars) == {"nll", "kl", "negative_elbo", "sigma", "active_units"}


def test_an_encoder_that_only_gives_the_conditions_prior_has_no_active_units() -> None:
    """Its means differ by category, though no pixel is looked at: that is collapse, too."""
    model, part = vae(), micro_batch()
    head = model.networks.prior.head
    assert head is not None
    torch.nn.init.normal_(head.weight)
    mean, log_variance = (tensor.detach() for tensor in model.networks.prior(part.conditions_NA))
    assert float(mean.var(dim=0).min()) > 0.01
    model.networks.encoder.forward = lambda *_: (mean, log_variance)  # type: ignore[method-assign]
    with torch.no_grad():
        _, scalars = model._loss(1.0, part)
    assert float(scalars["kl"]) == 0.0
    assert float(scalars["active_units"]) == 0.0


def test_a_single_image_says_nothing_of_collapse() -> None:
    part = micro_batch()
    one = replace(part, images_NCHW=part.images_NCHW[:1], conditions_NA=part.conditions_NA[:1], draws=whole_batch(0, 1))
    assert "active_units" not in vae()._loss(1.0, one)[1]


def test_extra_losses_are_added_by_weight() -> None:
    part = micro_batch()
    plain, _ = vae()._loss(1.0, part)
    extra, scalars = vae(laplacian=0.5, perceptual=3.0)._loss(1.0, part)
    torch.testing.assert_close(extra, plain + 0.5 * scalars["laplacian"] + 3.0 * scalars["perceptual"])
    assert scalars["laplacian"] > 0
    assert scalars["perceptual"] > 0


def test_extra_losses_change_the_gradient_but_not_what_is_saved() -> None:
    part, plain, extra = micro_batch(), vae(), vae(perceptual=3.0)
    assert set(extra.state_dict()) == set(plain.state_dict())
    assert not torch.equal(gradients(plain, plain._loss(1.0, part)[0]), gradients(extra, extra._loss(1.0, part)[0]))


def test_the_perceptual_loss_takes_no_random_numbers_from_the_training() -> None:
    part, model = micro_batch(), vae(perceptual=3.0)
    torch.manual_seed(3)
    model._loss(1.0, part)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    torch.testing.assert_close(drawn, torch.rand(4), rtol=0, atol=0)


def test_in_bfloat16_the_loss_is_nearly_the_same() -> None:
    model, part = vae(laplacian=1.0), micro_batch()
    exact, _ = model._loss(1.0, part)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, scalars = model._loss(1.0, part)
    assert rough.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in scalars.values())
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0)
    gradients(model, rough)


def test_beta_warms_up_by_images() -> None:
    model = vae(beta=2.0, kl_warmup=32)
    assert [model.beta(seen) for seen in (0, 8, 24, 800)] == [0.5, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("warmup", [False, True])
def test_micro_batches_have_nearly_the_gradient_of_the_whole(warmup: bool) -> None:
    """Nearly: each half has the variance that fits it best."""
    model, beta = vae(), 0.1 if warmup else 1.0
    whole = gradients(model, model._loss(beta, micro_batch(32))[0])
    halves = [micro_batch(32, rows=rows) for rows in (slice(0, 16), slice(16, 32))]
    divided = gradients(model, *[model._loss(beta, part)[0] for part in halves])
    torch.testing.assert_close(divided, whole, rtol=0.02, atol=0.02 * whole.abs().max().item())


def test_other_noise_gives_another_gradient() -> None:
    """What the test above would miss if rows got the numbers of others."""
    model = vae()
    one, other = micro_batch(32, rows=slice(0, 16)), micro_batch(32, rows=slice(16, 32))
    noise = [part.draws.normal("latents", 8) for part in (one, other)]
    whole = micro_batch(32).draws.normal("latents", 8)
    torch.testing.assert_close(torch.cat(noise), whole, rtol=0, atol=0)
    assert not torch.equal(gradients(model, model._loss(1.0, one)[0]), gradients(model, model._loss(1.0, other)[0]))


def test_unfitted_samples_are_the_priors() -> None:
    model = vae()
    prior = model.averaged().prior
    assert prior.head is not None
    torch.nn.init.normal_(prior.head.bias)
    conditions = torch.tensor([[0], [1], [2]])
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    noise = torch.randn(3, 8, generator=generator)
    mean, log_variance = prior(conditions)
    expected = model.averaged().decoder(mean + noise * (log_variance / 2).exp(), conditions)
    torch.testing.assert_close(model.sample(conditions, torch.Generator().manual_seed(5)), expected)


def latents_of(model: Vae, conditions: Tensor, count: int) -> Tensor:
    """Latents that samples of one condition are decoded from."""
    seen: list[Tensor] = []
    handle = model.averaged().decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    model.sample(conditions.expand(count, -1), torch.Generator().manual_seed(0))
    handle.remove()
    return seen[0]


def test_fitted_samples_come_from_where_the_images_of_their_condition_are_encoded(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path, {"train": 600, "val": 3, "test": 3})
    # A weak divergence, so that latents spread.
    model, split = vae(beta=0.01, density={"components": 2, "images": 600}), load_split(prepared, "train")
    trained(model, prepared, steps=40)
    model.fit_sampling(lambda: training_images(split, torch.device("cpu")))
    images, conditions = to_float(torch.from_numpy(np.concatenate(split.shards))), torch.from_numpy(split.conditions_NA)
    encoded, _ = model.averaged().encoder(images, conditions)
    for value in range(3):
        own = encoded[conditions[:, 0] == value]
        drawn = latents_of(model, torch.tensor([[value]]), 4000)
        deviation = own.std(dim=0) + 1e-3
        torch.testing.assert_close(drawn.mean(dim=0) / deviation, own.mean(dim=0) / deviation, rtol=0, atol=0.1)
        torch.testing.assert_close((drawn / deviation).T.cov(), (own / deviation).T.cov(), rtol=0, atol=0.15)


def test_sampling_from_the_prior_fits_nothing(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path)
    model, split = vae(sampling="prior"), load_split(prepared, "train")
    before = {name: value.clone() for name, value in model.sampling_state().items()}
    model.fit_sampling(lambda: training_images(split, torch.device("cpu")))
    for name, value in model.sampling_state().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_density_is_saved_and_loaded(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "prepared")
    model, split, info = vae(), load_split(prepared, "train"), load_info(prepared)
    conditions = torch.tensor([[0], [1], [2]])
    before = model.sample(conditions, torch.Generator().manual_seed(1))
    model.fit_sampling(lambda: training_images(split, torch.device("cpu")))
    after = model.sample(conditions, torch.Generator().manual_seed(1))
    assert not torch.equal(before, after)
    save_model(model, "vae", model.settings, info, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved").sample(conditions, torch.Generator().manual_seed(1))
    torch.testing.assert_close(loaded, after, rtol=0, atol=0)


@pytest.mark.parametrize("cardinalities", [(), (3, 4, 2)])
def test_any_number_of_conditions(cardinalities: tuple[int, ...]) -> None:
    model, part = vae(cardinalities), micro_batch(24, cardinalities=cardinalities)
    loss, _ = model._loss(1.0, part)
    loss.backward()
    assert all(weight.grad is not None for weight in model.networks.parameters())
    model.fit_sampling(lambda: iter([(part.images_NCHW, part.conditions_NA)]))
    images = model.sample(part.conditions_NA, torch.Generator().manual_seed(0))
    assert images.shape == part.images_NCHW.shape
    assert math.isfinite(images.sum().item())


def test_dropout_is_off_in_samples() -> None:
    raw = shrunk(small_settings("vae").model_dump(mode="json"))
    raw["autoencoder"] |= {"dropout": 0.5, "decoder_blocks": 1}
    settings = family_settings("vae", raw)
    assert isinstance(settings, Settings)
    model = Vae(settings, SHAPE, (3,)).train()
    for name, weight in model.averaged().named_parameters():
        if name.endswith("scale"):
            torch.nn.init.ones_(weight)
    conditions = torch.tensor([[0], [1]])
    one, other = (model.sample(conditions, torch.Generator().manual_seed(0)) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
