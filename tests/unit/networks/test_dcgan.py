import torch
from torch import nn

from components.networks.dcgan import DcganDiscriminator, Generator
from tests.networks import discriminator_settings, generator_settings, weights

WIDTHS = (4, 8, 12)
"""At 16, 8 and 4 pixels, for a width of 4 and at most 12."""


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(generator_settings("dcgan", width=4, max_width=12, embedding_dim=2), 6, (3, 32, 32), (5, 2))


def discriminator() -> DcganDiscriminator:
    torch.manual_seed(0)
    return DcganDiscriminator(discriminator_settings("dcgan", width=4, max_width=12), (3, 32, 32), (5, 2))


def test_the_generator_has_the_papers_layers() -> None:
    embeddings = 2 * (5 + 2)
    stem = (6 + 2 * 2) * 12 * 16
    convolutions = 16 * (12 * 8 + 8 * 4 + 4 * 3) + 3
    norms = 2 * (12 + 8 + 4)
    assert weights(generator()) == embeddings + stem + convolutions + norms


def test_the_discriminator_has_the_papers_layers() -> None:
    convolutions = 16 * (3 * 4 + 4 * 8 + 8 * 12) + sum(WIDTHS)
    head = 12 * 16 + 1
    projections = 12 * (5 + 2)
    assert weights(discriminator()) == convolutions + head + projections


def test_weights_start_normal_with_a_deviation_of_two_hundredths() -> None:
    for network in (generator(), discriminator()):
        kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
        drawn = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, kinds)])
        torch.testing.assert_close(drawn.std(), torch.tensor(0.02), rtol=0.05, atol=0)


def test_the_discriminator_has_no_batch_normalisation() -> None:
    """An image's logit, and so its gradient, must not hang on the others in the batch."""
    network, images = discriminator(), torch.randn(3, 3, 32, 32)
    labels = torch.tensor([[0, 1], [4, 0], [2, 1]])
    torch.testing.assert_close(network(images, labels)[1:], network(images[1:], labels[1:]))


def test_the_logit_is_linear_in_the_last_map_and_projects_its_sum() -> None:
    network = discriminator()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [4, 0]])
    x = images
    for stage in network.body:
        convolution = stage[0]  # type: ignore[index]
        x = torch.nn.functional.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=1)
        x = torch.where(x > 0, x, 0.2 * x)
    first, second = network.projections.parameters()
    embedded = first[labels[:, 0]] + second[labels[:, 1]]
    expected = x.flatten(1) @ network.head.weight[0] + network.head.bias + (embedded * x.sum(dim=(2, 3))).sum(dim=1)
    torch.testing.assert_close(network(images, labels), expected)
