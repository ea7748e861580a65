import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.networks.r3gan import Block, Generator, R3ganDiscriminator
from tests.networks import discriminator_settings, generator_settings, weights

WIDTHS = (4, 8, 12, 12)
"""At 32, 16, 8 and 4 pixels, for a width of 8 and at most 12."""


def generator(blocks: int = 2) -> Generator:
    torch.manual_seed(0)
    settings = generator_settings("r3gan", max_width=12, embedding_dim=2, blocks=blocks)
    return Generator(settings, 6, (3, 32, 32), (5, 2))


def discriminator(blocks: int = 2) -> R3ganDiscriminator:
    torch.manual_seed(0)
    return R3ganDiscriminator(discriminator_settings("r3gan", max_width=12, blocks=blocks), (3, 32, 32), (5, 2))


def filled(block: Block) -> Block:
    for weight in block.parameters():
        nn.init.normal_(weight, 0.0, 0.5)
    return block


def block_weights(width: int, group: int) -> int:
    """Up to twice the channels, 9 pixels within each group, and back; biases before the two activations."""
    inside = 2 * width
    return width * inside + inside + inside * group * 9 + inside + inside * width


def test_a_block_begins_as_the_identity() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(Block(8, 4, 6, 0.0)(features), features, rtol=0, atol=0)


def test_a_block_is_what_the_paper_draws() -> None:
    """In loops over channels and pixels, from the weights alone."""
    torch.manual_seed(0)
    block = filled(Block(4, 2, 6, 0.0))
    x = np.random.default_rng(0).normal(size=(4, 5, 5))
    first, second, last = (layer for layer in block.layers if isinstance(layer, nn.Conv2d))
    w1, w2, w3 = (layer.weight.detach().double().numpy() for layer in (first, second, last))
    assert first.bias is not None
    assert second.bias is not None
    b1, b2 = first.bias.detach().double().numpy(), second.bias.detach().double().numpy()

    def leaky(values: np.ndarray) -> np.ndarray:
        return np.where(values > 0, values, 0.2 * values)

    inside = leaky(np.einsum("oi,ihw->ohw", w1[:, :, 0, 0], x) + b1[:, None, None])
    padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    grouped = np.zeros_like(inside)
    for channel in range(8):
        group = channel // 2 * 2
        for row in range(5):
            for column in range(5):
                seen = padded[group : group + 2, row : row + 3, column : column + 3]
                grouped[channel, row, column] = (w2[channel] * seen).sum() + b2[channel]
    expected = x + np.einsum("oi,ihw->ohw", w3[:, :, 0, 0], leaky(grouped))
    torch.testing.assert_close(block(torch.tensor(x)[None].float())[0], torch.tensor(expected).float())


@pytest.mark.parametrize("total", [1, 16])
def test_weights_start_as_fixup_has_it(total: int) -> None:
    """Variance 2 / (1 + 0.2^2) / inputs, and L to the power of -1/4 times the deviation."""
    torch.manual_seed(0)
    block = Block(64, 16, total, 0.0)
    first, second, last = (layer for layer in block.layers if isinstance(layer, nn.Conv2d))
    gain = math.sqrt(2 / 1.04) / total**0.25
    for layer, inputs in ((first, 64), (second, 9 * 16)):
        torch.testing.assert_close(layer.weight.std(), torch.tensor(gain / math.sqrt(inputs)), rtol=0.03, atol=0)
        torch.testing.assert_close(layer.bias, torch.zeros(128))
    assert last.weight.abs().max() == 0
    assert last.bias is None


@pytest.mark.parametrize("build", [generator, discriminator])
def test_all_blocks_of_a_network_count(build: Callable[[], nn.Module]) -> None:
    """Two at each of four resolutions: L is 8."""
    blocks = [module for module in build().modules() if isinstance(module, Block)]
    assert len(blocks) == 8
    layers = [layer for block in blocks for layer in block.layers if isinstance(layer, nn.Conv2d)]
    drawn = [layer.weight.flatten() * layer.weight[0].numel() ** 0.5 for layer in layers if layer.bias is not None]
    expected = torch.tensor(math.sqrt(2 / 1.04) / 8**0.25)
    torch.testing.assert_close(torch.cat(drawn).std(), expected, rtol=0.04, atol=0)


def test_fewer_channels_than_a_group_are_one_group() -> None:
    assert [layer.groups for layer in Block(4, 16, 1, 0.0).layers if isinstance(layer, nn.Conv2d)] == [1, 1, 1]


def test_the_generator_has_the_papers_layers() -> None:
    conditions, basis, scales = 2 * (5 + 2), 12 * 16, (6 + 2 * 2) * 12
    blocks = sum(2 * block_weights(width, 4) for width in WIDTHS)
    changes = 4 * 8 + 8 * 12
    assert weights(generator()) == conditions + basis + scales + blocks + changes + (4 * 3 + 3)


def test_the_discriminator_has_the_papers_layers() -> None:
    blocks = sum(2 * block_weights(width, 4) for width in WIDTHS)
    changes = 4 * 8 + 8 * 12
    depthwise, head = 12 * 16, 12 + 1 + 12 * (5 + 2)
    assert weights(discriminator()) == (3 * 4 + 4) + blocks + changes + depthwise + head


def test_the_generator_begins_with_a_basis_that_the_latent_scales() -> None:
    """All blocks being the identity at first, the whole network is a chain of linear steps."""
    network = generator()
    z, labels = torch.randn(3, 6), torch.tensor([[0, 1], [4, 0], [2, 1]])
    tables = network.embedding.tables
    inputs = torch.cat([z, tables[0](labels[:, 0]), tables[1](labels[:, 1])], dim=1)
    x: Tensor = network.basis[None] * (inputs @ network.scales.weight.T)[:, :, None, None]
    for module in network.body:
        if isinstance(module, Block):
            continue
        changed = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        if changed:
            x = torch.einsum("oi,nihw->nohw", changed[0].weight[:, :, 0, 0], x)
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    out = network.out[0]
    expected = torch.einsum("oi,nihw->nohw", out.weight[:, :, 0, 0], x) + out.bias[None, :, None, None]  # type: ignore
    torch.testing.assert_close(network(z, labels), expected.tanh())


def test_the_discriminator_ends_with_a_depthwise_map_and_a_projection() -> None:
    network = discriminator()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [4, 0]])
    last = network.features(images)[-1]
    reduced = torch.einsum("chw,nchw->nc", network.basis.weight[:, 0], last)
    first, second = network.head.projections.parameters()
    embedded = first[labels[:, 0]] + second[labels[:, 1]]
    linear = network.head.linear
    expected = reduced @ linear.weight[0] + linear.bias + (embedded * reduced).sum(dim=1)
    torch.testing.assert_close(network(images, labels), expected)


def test_nothing_is_normalised() -> None:
    """An image must not hang on the others in the batch: accumulation and several processes change nothing."""
    networks: list[nn.Module] = [generator(), discriminator()]
    labels = torch.tensor([[0, 1], [4, 0], [2, 1]])
    for network, inputs in zip(networks, (torch.randn(3, 6), torch.randn(3, 3, 32, 32)), strict=True):
        for weight in network.parameters():
            nn.init.normal_(weight, 0.0, 0.2)
        torch.testing.assert_close(network(inputs, labels)[1:], network(inputs[1:], labels[1:]))


def test_signals_keep_their_size_from_end_to_end() -> None:
    torch.manual_seed(0)
    settings = discriminator_settings("r3gan", width=64, max_width=128, group_size=16)
    network = R3ganDiscriminator(settings, (1, 64, 64), ())
    logits = network(torch.randn(64, 1, 64, 64), torch.empty(64, 0, dtype=torch.int64))
    assert 0.01 < logits.std() < 3
