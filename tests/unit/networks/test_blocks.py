import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from components.networks.blocks import (
    ConditionEmbedding,
    ProjectionHead,
    blur,
    downsample,
    pyramid_widths,
    stage_widths,
    upsample,
)

FILTER = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16


def filtered(images_NCHW: Tensor) -> Tensor:
    """[1, 2, 1] both ways, as the formula has it."""
    channels = images_NCHW.shape[1]
    kernel = FILTER.to(images_NCHW).expand(channels, 1, 3, 3)
    return conv2d(pad(images_NCHW, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def test_upsampling_repeats_and_filters() -> None:
    images = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    repeated = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(upsample(images), filtered(repeated))


def test_downsampling_filters_and_takes_means() -> None:
    images = torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    means = filtered(images).unflatten(2, (4, 2)).unflatten(4, (8, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(downsample(images), means)


def test_the_gpus_filter_is_the_same() -> None:
    images = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blur(images), filtered(images))


def test_resampling_keeps_a_bfloat16_images_type_and_memory_layout() -> None:
    images = torch.randn(2, 8, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last)
    for resampled in (upsample(images), downsample(images)):
        assert resampled.dtype == torch.bfloat16
        assert resampled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resample", [upsample, downsample])
def test_resampling_can_be_differentiated_twice(resample: object) -> None:
    images = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def squared(x: Tensor) -> Tensor:
        result: Tensor = resample(x).square()  # type: ignore[operator]
        return result

    assert torch.autograd.gradcheck(squared, images)
    assert torch.autograd.gradgradcheck(squared, images)


def test_projection_is_the_product_with_the_sum_of_the_embeddings() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(5, (3, 2))
    features, labels = torch.randn(4, 5), torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0]])
    first, second = (table.detach().numpy() for table in head.projections.parameters())
    weight, bias = head.linear.weight.detach().numpy()[0], head.linear.bias.item()
    expected = []
    for row, (one, other) in zip(features.numpy(), labels.tolist(), strict=True):
        expected.append((weight * row).sum() + bias + ((first[one] + second[other]) * row).sum())
    torch.testing.assert_close(head(features, labels), torch.tensor(expected))


def test_without_attributes_the_head_is_linear() -> None:
    head, features = ProjectionHead(5, ()), torch.randn(4, 5)
    logits = head(features, torch.empty(4, 0, dtype=torch.int64))
    torch.testing.assert_close(logits, features @ head.linear.weight[0] + head.linear.bias)


def test_embeddings_lie_side_by_side() -> None:
    embedding = ConditionEmbedding((3, 2), 4)
    first, second = embedding.tables[0].weight, embedding.tables[1].weight
    vectors = embedding(torch.tensor([[2, 1], [0, 1]]))
    expected = torch.stack([torch.cat([first[2], second[1]]), torch.cat([first[0], second[1]])])  # type: ignore[index]
    torch.testing.assert_close(vectors, expected)
    assert embedding.dim == 8


def test_without_attributes_there_is_nothing_to_embed() -> None:
    embedding = ConditionEmbedding((), 4)
    assert embedding.dim == 0
    assert embedding(torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0)


def test_widths_double_up_to_the_bound() -> None:
    assert stage_widths(32, 8) == [8, 16, 32]
    assert stage_widths(256, 8, 40) == [8, 16, 32, 40, 40, 40]
    assert pyramid_widths(64, 8, 20) == [4, 8, 16, 20, 20]
    assert pyramid_widths(32, 512, 64) == [64, 64, 64, 64]
