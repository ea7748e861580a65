import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear

from components.networks.autoencoder import Autoencoder, AutoencoderSettings, Prior, ResidualBlock


def settings(dropout: float = 0.0, **changes: int) -> AutoencoderSettings:
    small = {"latent_dim": 5, "embedding_dim": 3, "width": 8, "max_width": 16, "encoder_blocks": 1, "decoder_blocks": 1}
    return AutoencoderSettings(**(small | changes), dropout=dropout)


def test_dropout_without_a_block_to_act_in_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"dropout is 0\.5, but encoder_blocks and decoder_blocks are 0"):
        settings(dropout=0.5, encoder_blocks=0, decoder_blocks=0)
    assert settings(dropout=0.5, encoder_blocks=0).dropout == 0.5
    assert settings(dropout=0.5, decoder_blocks=0).dropout == 0.5


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_range_at_all_resolutions(size: int, channels: int) -> None:
    network = Autoencoder(settings(), (channels, size, size), (3,))
    images, conditions = torch.rand(2, channels, size, size), torch.tensor([[0], [2]])
    mean, log_variance = network.encoder(images, conditions)
    assert mean.shape == log_variance.shape == (2, 5)
    made = network.decoder(100 * mean, conditions)
    assert made.shape == images.shape
    assert made.abs().max() <= 1


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("cardinalities", [(), (3,), (3, 4, 2)])
def test_every_weight_gets_a_gradient_with_any_conditions(blocks: int, cardinalities: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = Autoencoder(settings(encoder_blocks=blocks, decoder_blocks=blocks), (1, 32, 32), cardinalities)
    for name, weight in network.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.ones_(weight)
        if name.startswith("prior"):
            torch.nn.init.normal_(weight)
    columns = [torch.arange(24) % values for values in cardinalities]
    conditions = torch.stack(columns, dim=1) if columns else torch.zeros(24, 0, dtype=torch.int64)
    mean, log_variance = network.encoder(torch.rand(24, 1, 32, 32), conditions)
    prior = sum(part.sum() for part in network.prior(conditions))
    (network.decoder(mean, conditions).sum() + log_variance.sum() + prior).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_images_and_latents_do_not_hang_on_the_others() -> None:
    torch.manual_seed(0)
    network = Autoencoder(settings(), (1, 32, 32), (3,)).train()
    images, conditions = torch.rand(6, 1, 32, 32), torch.arange(6)[:, None] % 3
    whole, _ = network.encoder(images, conditions)
    torch.testing.assert_close(network.encoder(images[:2], conditions[:2])[0], whole[:2], rtol=1e-4, atol=1e-5)
    made = network.decoder(whole, conditions)[:2]
    torch.testing.assert_close(network.decoder(whole[:2], conditions[:2]), made, rtol=1e-4, atol=1e-5)


def test_plain_stacks_follow_a_plain_formula() -> None:
    torch.manual_seed(0)
    network = Autoencoder(settings(encoder_blocks=0, decoder_blocks=0), (1, 16, 16), (3,))
    images, conditions = torch.rand(4, 1, 16, 16), torch.tensor([[0], [1], [2], [1]])
    weights = dict(network.named_parameters())

    features = images
    for place in ("body.0", "body.2"):
        weight, bias = weights[f"encoder.{place}.weight"], weights[f"encoder.{place}.bias"]
        features = leaky_relu(conv2d(features, weight, bias, stride=2, padding=1), 0.2)
    joined = torch.cat([features.flatten(1), weights["encoder.embedding.tables.0.weight"][conditions[:, 0]]], dim=1)
    expected = linear(joined, weights["encoder.head.weight"], weights["encoder.head.bias"])
    mean, log_variance = network.encoder(images, conditions)
    torch.testing.assert_close(torch.cat([mean, log_variance], dim=1), expected)

    joined = torch.cat([mean, weights["decoder.embedding.tables.0.weight"][conditions[:, 0]]], dim=1)
    features = linear(joined, weights["decoder.stem.weight"]).view(4, 16, 4, 4)
    features = leaky_relu(standardised(features), 0.2)
    features = conv_transpose2d(features, weights["decoder.body.2.weight"], stride=2, padding=1)
    features = leaky_relu(standardised(features), 0.2)
    last = conv_transpose2d(features, weights["decoder.body.5.weight"], weights["decoder.body.5.bias"], 2, 1)
    torch.testing.assert_close(network.decoder(mean, conditions), last.tanh(), rtol=1e-4, atol=1e-5)


def standardised(features_NCHW: torch.Tensor) -> torch.Tensor:
    """Each image's features less their mean, over their deviation."""
    mean = features_NCHW.mean(dim=(1, 2, 3), keepdim=True)
    return (features_NCHW - mean) / (features_NCHW.var(dim=(1, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()


def test_block_starts_as_the_identity_and_follows_a_plain_formula() -> None:
    torch.manual_seed(0)
    block, features = ResidualBlock(4, 0.0), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(features), features, rtol=0, atol=0)
    torch.nn.init.normal_(block.scale)
    inner = conv2d(leaky_relu(features, 0.2), block.first.weight, block.first.bias, padding=1)
    inner = conv2d(leaky_relu(inner, 0.2), block.second.weight, block.second.bias, padding=1)
    torch.testing.assert_close(block(features), features + inner * block.scale)


def test_number_of_weights() -> None:
    """Counted by hand: convolutions k^2 * in * out + out, blocks with a scale per channel, linear layers, tables.

    Normalised layers have two numbers per channel; what comes before them has no bias.
    """
    network = Autoencoder(settings(), (1, 32, 32), (3,))

    def convolution(kernel: int, inner: int, outer: int) -> int:
        return kernel**2 * inner * outer + outer

    def block(width: int) -> int:
        return 2 * convolution(3, width, width) + width

    table, blocks = 3 * 3, block(8) + 2 * block(16)
    encoder = convolution(4, 1, 8) + convolution(4, 8, 16) + convolution(4, 16, 16) + blocks
    encoder += (16 * 16 + 3) * 10 + 10 + table
    stages = 4**2 * 16 * 16 + 4**2 * 16 * 8 + convolution(4, 8, 1)
    decoder = table + (5 + 3) * 256 + blocks + stages + 2 * (16 + 16 + 8)
    prior = table + 3 * 10 + 10
    assert sum(weight.numel() for weight in network.parameters()) == encoder + decoder + prior


def test_prior_without_conditions_is_the_standard_normal() -> None:
    mean, log_variance = Prior(settings(), ())(torch.zeros(4, 0, dtype=torch.int64))
    torch.testing.assert_close(mean, torch.zeros(4, 5))
    torch.testing.assert_close(log_variance, torch.zeros(4, 5))


def test_dropout_changes_training_only() -> None:
    block = ResidualBlock(8, 0.5)
    torch.nn.init.ones_(block.scale)
    features = torch.randn(2, 8, 4, 4)
    assert not torch.equal(block.train()(features), block(features))
    torch.testing.assert_close(block.eval()(features), block(features), rtol=0, atol=0)
