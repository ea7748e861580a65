import torch
from torch.nn.functional import cosine_similarity

from components.features import EffLite0
from components.variational.perceptual import PerceptualLoss

CPU = torch.device("cpu")


def test_it_is_the_cosine_distance_in_the_metrics_networks_early_layers() -> None:
    torch.manual_seed(0)
    images, others = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    network, expected = EffLite0(64).network, torch.zeros(2)
    one, other = (network._swish(network._conv_stem(batch)) for batch in (images, others))
    for number, block in enumerate(network._blocks[:5]):
        one, other = block(one), block(other)
        if number in (0, 2, 4):
            # Vectors of length 1 have the squared distance 2 - 2 cos.
            expected += (2 - 2 * cosine_similarity(one, other, dim=1)).mean(dim=(1, 2))
    torch.testing.assert_close(PerceptualLoss(CPU)(images, others), expected, rtol=1e-4, atol=1e-5)


def test_small_grey_images_are_enlarged_and_gradients_reach_the_reconstructions_alone() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 32, 32, requires_grad=True)
    reconstructions = torch.rand(2, 1, 32, 32, requires_grad=True)
    loss = PerceptualLoss(CPU)
    loss(images, reconstructions).sum().backward()
    assert images.grad is None
    assert reconstructions.grad is not None
    assert reconstructions.grad.any()
    torch.testing.assert_close(loss(images, images), torch.zeros(2), rtol=0, atol=1e-5)
