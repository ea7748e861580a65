"""How near reconstructions are to their originals, in pixels."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from components.measurement import Estimate, Estimates
from components.metrics.groups import counts_without_each, group_sums, totals, with_replicates
from components.metrics.means import mean_estimate

WHITE = 255.0


def reconstruction_estimates(
    pairs: Iterable[tuple[Tensor, Tensor]], groups_N: Tensor, positions: Mapping[str, Tensor]
) -> tuple[Estimates, dict[str, Estimates]]:
    """PSNR in dB of the squared error of images together, and mean SSIM in -1..1: of all, and per category.

    SSIM: Wang et al., 2004, doi:10.1109/TIP.2003.819861; Gaussian window of deviation 1.5 pixels, borders mirrored.
    PSNR of images together and not its mean per image, which one perfect image would make infinite.

    Args:
        pairs: originals and reconstructions, uint8, (n, C, H, W) each, N in all.
        groups_N: each image's group, in the same order.
        positions: rows of each category.

    Returns:
        `reconstruction_psnr`, unknown (it is infinite) if all are perfect, and `reconstruction_ssim`, over all and per
        category.
    """
    # Imported here: it takes a second, and GANs reconstruct nothing.
    from torchmetrics.functional.image import structural_similarity_index_measure

    errors, similarities = [], []
    for original_NCHW, reconstruction_NCHW in pairs:
        original, reconstruction = original_NCHW.double(), reconstruction_NCHW.double()
        errors.append((original - reconstruction).square().mean(dim=(1, 2, 3)))
        similarity = structural_similarity_index_measure(reconstruction, original, data_range=WHITE, reduction="none")
        assert isinstance(similarity, Tensor)  # a pair only if asked for the contrasts too
        similarities.append(similarity)
    errors_N, similarities_N = torch.cat(errors), torch.cat(similarities)

    def estimates(rows: Tensor) -> Estimates:
        return {
            "reconstruction_psnr": psnr_estimate(errors_N[rows], groups_N[rows]),
            "reconstruction_ssim": mean_estimate(similarities_N[rows], groups_N[rows]),
        }

    everything = torch.arange(len(errors_N))
    return estimates(everything), {category: estimates(rows) for category, rows in positions.items()}


def psnr_estimate(errors_N: Tensor, groups_N: Tensor) -> Estimate:
    """PSNR in dB over all images; unknown (it is infinite) if all are perfect.

    Args:
        errors_N: mean squared error of each image, of values 0 to 255.
        groups_N: each image's group.
    """
    error = totals(group_sums(errors_N, groups_N)) / counts_without_each(groups_N)
    return with_replicates(10 * (WHITE**2 / error).log10())
