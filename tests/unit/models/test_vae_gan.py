from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import Tensor

from components.dataset import load_info
from components.models.vae_gan import Settings, VaeGan, feature_nll
from tests.prepared import write_prepared
from tests.small import micro_batch, small_settings, trained


def vae_gan(cardinalities: tuple[int, ...] = (3,), **changes: Any) -> VaeGan:
    settings = small_settings("vae_gan", **changes)
    assert isinstance(settings, Settings)
    torch.manual_seed(0)
    return VaeGan(settings, (1, 32, 32), cardinalities)


def autoencoder_gradients(model: VaeGan, beta: float = 0.0) -> dict[str, Tensor | None]:
    model.discriminator.requires_grad_(False)
    loss, _ = model._autoencode(beta, {}, micro_batch())
    model.zero_grad()
    loss.backward()
    model.discriminator.requires_grad_(True)
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def reached(gradients: dict[str, Tensor | None], part: str) -> bool:
    """Whether the head of a part, or its first layer, gets a gradient."""
    return any(
        gradient is not None and bool(gradient.any()) for name, gradient in gradients.items() if name.startswith(part)
    )


def test_the_adversarial_loss_reaches_the_decoder_and_not_the_encoder() -> None:
    found = autoencoder_gradients(vae_gan(pixels=0.0, features=0.0, adversarial=1.0))
    assert reached(found, "networks.decoder")
    assert not reached(found, "networks.encoder")
    assert not reached(found, "networks.prior")
    assert not reached(found, "discriminator")


@pytest.mark.parametrize("only", ["pixels", "features"])
def test_reconstruction_reaches_encoder_and_decoder_and_not_the_discriminator(only: str) -> None:
    weights: dict[str, Any] = {"pixels": 0.0, "features": 0.0, "adversarial": 0.0, only: 1.0}
    found = autoencoder_gradients(vae_gan(**weights))
    assert reached(found, "networks.decoder")
    assert reached(found, "networks.encoder")
    assert not reached(found, "discriminator")


def test_the_divergence_reaches_encoder_and_prior_and_not_the_decoder() -> None:
    found = autoencoder_gradients(vae_gan(pixels=0.0, features=0.0, adversarial=0.0), beta=1.0)
    assert reached(found, "networks.encoder")
    assert reached(found, "networks.prior")
    assert not reached(found, "networks.decoder")


def test_the_discriminators_loss_reaches_nothing_else() -> None:
    model, fakes = vae_gan(), dict[int, Tensor]()
    model._autoencode(1.0, fakes, micro_batch())
    model.zero_grad()
    loss, _ = model._discriminate({}, fakes, micro_batch())
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert reached(found, "discriminator")
    assert not reached(found, "networks")


def test_the_discriminator_computes_no_gradients_of_its_weights_for_the_autoencoder(tmp_path: Path) -> None:
    write_prepared(tmp_path)
    seen: list[bool] = []

    class Watched(VaeGan):
        def _autoencode(self, *args: Any) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(any(weight.requires_grad for weight in self.discriminator.parameters()))
            return super()._autoencode(*args)

    model = Watched(vae_gan().settings, (1, 32, 32), (3,))
    trained(model, tmp_path, steps=2)
    assert seen == [False, False]
    assert all(weight.requires_grad for weight in model.discriminator.parameters())


def test_the_loss_is_in_nats_per_value_of_an_image() -> None:
    model = vae_gan(pixels=0.5, features=2.0, adversarial=0.25)
    loss, scalars = model._autoencode(3.0, {}, micro_batch())
    expected = 0.5 * scalars["nll"] / 1024 + 2.0 * scalars["nll_features"] + 3.0 * scalars["kl"] / 1024
    torch.testing.assert_close(loss, expected + 0.25 * scalars["loss_generator"])


def test_features_count_the_same_whatever_their_size() -> None:
    torch.manual_seed(0)
    wanted, found = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 4, 3, 8, 8, requires_grad=True)

    def gradient(scale: float) -> Tensor:
        loss = feature_nll(list(scale * wanted), list(scale * found))
        return torch.autograd.grad(loss, found)[0]

    torch.testing.assert_close(gradient(1.0), gradient(100.0))


def test_fakes_are_of_images_in_even_rows_and_of_the_prior_in_odd_ones() -> None:
    model = vae_gan()
    z, zeros = torch.full((8, 8), 100.0), torch.zeros(8, 8)
    whole = model._fake_latents(z, zeros, zeros, micro_batch(8))
    assert (whole[::2] == 100).all()
    assert (whole[1::2].abs() < 10).all()
    # However a batch is divided: here the second part begins with an odd row.
    odd = micro_batch(8, rows=slice(3, 8))
    torch.testing.assert_close(model._fake_latents(z[3:], zeros[3:], zeros[3:], odd), whole[3:], rtol=0, atol=0)


def logged(model: VaeGan, prepared: Path) -> dict[str, float]:
    """What three steps tell."""
    told: dict[str, float] = {}

    class Listener(Callback):
        def on_train_batch_end(self, _trainer: Any, _model: Any, outputs: Any, *_: Any) -> None:
            told.update(outputs["log"].means())

    trained(model, prepared, steps=3, callbacks=[Listener()])
    return told


@pytest.mark.parametrize(
    ("loss", "penalties"),
    [
        ("relativistic", {"r1": 1.0, "r2": 1.0}),
        ("wasserstein", {"gradient_penalty": 10.0}),
        ("non_saturating", {}),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_penalties_train_and_are_told(
    loss: str, penalties: dict[str, float], accumulate: int, tmp_path: Path
) -> None:
    write_prepared(tmp_path)
    chosen: dict[str, Any] = {"r1": None, "r2": None, "gradient_penalty": None}
    chosen |= {name: {"gamma": gamma, "every": 1, "method": "exact"} for name, gamma in penalties.items()}
    model = vae_gan((len(load_info(tmp_path).attributes["category"]),), loss=loss, penalties=chosen)
    model.settings = model.settings.model_copy(update={"accumulate": accumulate})
    told = logged(model, tmp_path)
    expected = {"loss_discriminator", "loss_generator", "logits_real", "logits_fake", "discriminator_accuracy"}
    expected |= {"diversity_fake", "diversity_real", "active_units", "kl", "nll", "nll_features", "sigma", "beta"}
    assert set(told) == expected | set(penalties)
    assert all(torch.tensor(value).isfinite() for value in told.values())


def test_unconditional_and_several_conditions() -> None:
    for cardinalities in ((), (3, 4)):
        model, part = vae_gan(cardinalities), micro_batch(cardinalities=cardinalities)
        loss, _ = model._autoencode(1.0, {}, part)
        assert loss.isfinite()
        assert model.sample(part.conditions_NA, torch.Generator().manual_seed(0)).shape == (8, 1, 32, 32)


def test_in_bfloat16_the_losses_are_nearly_the_same() -> None:
    model, exact_fakes, rough_fakes = vae_gan(), dict[int, Tensor](), dict[int, Tensor]()
    model.discriminator.eval()  # no further round of the spectral norm's estimate in between
    exact, _ = model._autoencode(1.0, exact_fakes, micro_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = model._autoencode(1.0, rough_fakes, micro_batch())
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)
