import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, relu

from components.networks.attention import SelfAttention
from components.networks.resnet import DownBlock, Generator, ResnetDiscriminator, UpBlock, pooled
from tests.networks import discriminator_settings, generator_settings, weights


def discriminator(*, multi_scale: bool = False, attention: int | None = None) -> ResnetDiscriminator:
    torch.manual_seed(0)
    settings = discriminator_settings("resnet", max_width=12, attention=attention, multi_scale=multi_scale)
    return ResnetDiscriminator(settings, (3, 32, 32), (5, 2))


def generator(cardinalities: tuple[int, ...], attention: int | None) -> Generator:
    settings = generator_settings("resnet", max_width=12, embedding_dim=2, attention=attention)
    return Generator(settings, 6, (3, 32, 32), cardinalities)


def convolutions(block: nn.Module) -> list[nn.Conv2d]:
    """First, second, and the shortcut's where there is one."""
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)]


def test_attention_is_a_softmax_over_all_pixels() -> None:
    """In loops over pixels, from the weights alone."""
    torch.manual_seed(0)
    layer = SelfAttention(16)
    nn.init.constant_(layer.share, 0.7)
    x = torch.randn(1, 16, 4, 4)
    query, key, value, out = (
        w.weight.detach()[:, :, 0, 0].double().numpy() for w in (layer.query, layer.key, layer.value, layer.out)
    )
    pixels = x[0].double().numpy()

    def halved(maps: np.ndarray) -> np.ndarray:
        largest: np.ndarray = maps.reshape(len(maps), 2, 2, 2, 2).max(axis=(2, 4))
        return largest.reshape(len(maps), 4)

    keys, values = halved(np.einsum("oi,ihw->ohw", key, pixels)), halved(np.einsum("oi,ihw->ohw", value, pixels))
    assert keys.shape == (2, 4)
    assert values.shape == (8, 4)
    expected = pixels.copy()
    for row in range(4):
        for column in range(4):
            scores = (query @ pixels[:, row, column]) @ keys / np.sqrt(2)
            shares = np.exp(scores) / np.exp(scores).sum()
            expected[:, row, column] += 0.7 * out @ (values @ shares)
    torch.testing.assert_close(layer(x)[0], torch.tensor(expected).float())


def test_attention_begins_as_the_identity() -> None:
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(SelfAttention(8)(x), x, rtol=0, atol=0)


def test_attention_stands_where_the_settings_say() -> None:
    network = discriminator(attention=8)
    kinds = [[type(module) for module in stage.children()] for stage in network.body]
    assert kinds == [[DownBlock], [DownBlock, SelfAttention], [DownBlock, DownBlock]]
    assert [type(module) for module in generator((), attention=16).body] == [UpBlock, UpBlock, SelfAttention, UpBlock]


@pytest.mark.parametrize("activate", [True, False])
def test_a_down_block_is_the_papers(activate: bool) -> None:
    """With the shortcut's convolution before the pooling, as the papers draw it for all but the first block."""
    torch.manual_seed(0)
    block, x = DownBlock(3, 6, 0.0, activate=activate, halve=True), torch.randn(2, 3, 8, 8)
    first, second, shortcut = convolutions(block)
    hidden = conv2d(relu(x) if activate else x, first.weight, first.bias, padding=1)
    residual = conv2d(relu(hidden), second.weight, second.bias, padding=1)
    expected = avg_pool2d(residual + conv2d(x, shortcut.weight), 2)
    torch.testing.assert_close(block(x), expected)
    assert first.out_channels == (3 if activate else 6)


def test_a_block_that_changes_nothing_has_a_plain_shortcut() -> None:
    torch.manual_seed(0)
    block, x = DownBlock(4, 4, 0.0, activate=True, halve=False), torch.randn(2, 4, 4, 4)
    first, second = convolutions(block)
    residual = conv2d(relu(conv2d(relu(x), first.weight, first.bias, padding=1)), second.weight, second.bias, padding=1)
    expected = x + residual
    torch.testing.assert_close(block(x), expected)


def test_an_up_block_is_the_papers() -> None:
    """With the shortcut's convolution after the enlargement, as the papers draw it."""
    torch.manual_seed(0)
    block, x = UpBlock(6, 4, 0.0), torch.randn(3, 6, 4, 4)
    first, second, shortcut = convolutions(block)

    def normalised(maps: Tensor) -> Tensor:
        mean, variance = maps.mean(dim=(0, 2, 3), keepdim=True), maps.var(dim=(0, 2, 3), keepdim=True, correction=0)
        return (maps - mean) / (variance + 1e-5).sqrt()

    def doubled(maps: Tensor) -> Tensor:
        return interpolate(maps, scale_factor=2)

    hidden = conv2d(doubled(relu(normalised(x))), first.weight, padding=1)
    residual = conv2d(relu(normalised(hidden)), second.weight, padding=1)
    expected = residual + conv2d(doubled(x), shortcut.weight)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_pooling_is_a_sum_over_four_by_four_pixels_and_of_that_size_at_any_resolution() -> None:
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(pooled(x), x.clamp_min(0).sum(dim=(2, 3)))
    torch.testing.assert_close(pooled(interpolate(x, scale_factor=4)), pooled(x))


def test_multi_scale_logits_are_the_mean_over_the_heads() -> None:
    network = discriminator(multi_scale=True)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [4, 0]])
    maps = network.features(images)
    assert [map_NCHW.shape[1:] for map_NCHW in maps] == [(8, 16, 16), (12, 8, 8), (12, 4, 4)]
    logits = [head(pooled(map_NCHW), labels) for head, map_NCHW in zip(network.heads, maps, strict=True)]
    torch.testing.assert_close(network(images, labels), sum(logits) / 3)


def test_with_one_scale_the_last_map_is_judged() -> None:
    network = discriminator()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [4, 0]])
    assert len(network.heads) == 1
    expected = network.heads[0](pooled(network.features(images)[-1]), labels)
    torch.testing.assert_close(network(images, labels), expected)


def test_the_discriminator_has_the_papers_layers() -> None:
    def conv(before: int, after: int) -> int:
        return 9 * before * after + after

    image = conv(3, 8) + conv(8, 8) + 3 * 8
    second = conv(8, 8) + conv(8, 12) + 8 * 12
    at_four = 2 * conv(12, 12) + 2 * conv(12, 12)
    head = 12 + 1 + 12 * (5 + 2)
    assert weights(discriminator()) == image + second + at_four + head


def test_the_generator_has_the_papers_layers() -> None:
    network = generator((5,), attention=None)

    def block(before: int, after: int) -> int:
        return 2 * before + 9 * before * after + 2 * after + 9 * after * after + before * after

    stem = (6 + 2) * 12 * 16 + 12 * 16
    blocks = block(12, 12) + block(12, 8) + block(8, 4)
    assert weights(network) == 2 * 5 + stem + blocks + 2 * 4 + (9 * 4 * 3 + 3)


def test_weights_start_within_glorots_bounds() -> None:
    first, second, shortcut = convolutions(discriminator().body[0])
    for layer, inputs, outputs, gain in ((first, 27, 72, 2**0.5), (second, 72, 72, 2**0.5), (shortcut, 3, 8, 1.0)):
        bound = gain * (6 / (inputs + outputs)) ** 0.5
        assert 0.7 * bound < layer.weight.abs().max() <= bound
        if layer.bias is not None:
            assert layer.bias.abs().max() == 0
