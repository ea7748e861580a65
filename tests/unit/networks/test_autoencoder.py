import pytest
import torch
from torch.nn.functional import conv2d, leaky_relu

from components.networks.autoencoder import Autoencoder, AutoencoderSettings, Prior, ResidualBlock, channel_plan


def settings(**changes: int) -> AutoencoderSettings:
    small = {"latent_dim": 5, "embedding_dim": 3, "width": 8, "max_width": 16, "encoder_blocks": 1, "decoder_blocks": 1}
    return AutoencoderSettings(**(small | changes), dropout=0.0)


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


def test_an_images_latents_do_not_hang_on_the_others() -> None:
    torch.manual_seed(0)
    network = Autoencoder(settings(), (1, 32, 32), (3,)).train()
    images, conditions = torch.rand(6, 1, 32, 32), torch.arange(6)[:, None] % 3
    whole, _ = network.encoder(images, conditions)
    torch.testing.assert_close(network.encoder(images[:2], conditions[:2])[0], whole[:2], rtol=1e-4, atol=1e-5)


def test_channels_double_up_to_the_most_there_may_be() -> None:
    assert channel_plan(settings(width=24, max_width=100), 256) == [24, 48, 96, 100, 100, 100]


def test_block_starts_as_the_identity_and_follows_a_plain_formula() -> None:
    torch.manual_seed(0)
    block, features = ResidualBlock(4, 0.0), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(features), features, rtol=0, atol=0)
    torch.nn.init.normal_(block.scale)
    inner = conv2d(leaky_relu(features, 0.2), block.first.weight, block.first.bias, padding=1)
    inner = conv2d(leaky_relu(inner, 0.2), block.second.weight, block.second.bias, padding=1)
    torch.testing.assert_close(block(features), features + inner * block.scale)


def test_number_of_weights() -> None:
    """Counted by hand: convolutions k^2 * in * out + out, blocks with a scale per channel, linear layers, tables."""
    network = Autoencoder(settings(), (1, 32, 32), (3,))

    def convolution(kernel: int, inner: int, outer: int) -> int:
        return kernel**2 * inner * outer + outer

    def block(width: int) -> int:
        return 2 * convolution(3, width, width) + width

    table, blocks = 3 * 3, block(8) + 2 * block(16)
    encoder = convolution(3, 4, 8) + convolution(4, 8, 16) + convolution(4, 16, 16) + blocks
    encoder += (16 * 16 + 3) * 10 + 10 + table
    decoder = table + (5 + 3) * 256 + 256 + blocks + convolution(3, 16, 16) + convolution(3, 16, 8)
    decoder += 2 * convolution(3, 8, 8) + convolution(3, 8, 1)
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
