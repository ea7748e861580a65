"""How near generated images are to real ones, on features; and reconstructions to their originals.

torchmetrics computes everything but precision and recall, which it lacks. All in float64 on the
CPU: the features cost a thousand times more, and the numbers are the same on every machine.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from components.features import Features
from components.settings import EvaluateSettings

# FID, KID and Inception Score are names for Inception's features alone.
NAMES = {
    "efflite0": {
        "frechet": "fd_efflite0",
        "kernel": "kd_efflite0",
        "kernel_std": "kd_efflite0_std",
        "score": "is_efflite0",
        "precision": "precision_efflite0",
        "recall": "recall_efflite0",
    },
    "inception": {
        "frechet": "fid",
        "kernel": "kid",
        "kernel_std": "kid_std",
        "score": "inception_score",
        "precision": "precision_inception",
        "recall": "recall_inception",
    },
}

ROWS_AT_ONCE = 1000


class _Precomputed(nn.Identity):
    """Stands where torchmetrics wants a feature network: each image passed the real one already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(real_ND: Tensor, fake_ND: Tensor) -> float:
    """Fréchet distance between the normal distributions fitted to both sets.

    Heusel et al., 2017, arXiv:1706.08500. Needs more images than feature dimensions: below that
    the covariances are rank-deficient and the distance is biased far upwards.

    Args:
        real_ND: features (N, D).
        fake_ND: features (M, D).
    """
    # In a training of several processes one of them measures: it must not wait for features of the others.
    metric = FrechetInceptionDistance(_Precomputed(real_ND.shape[1]), sync_on_compute=False)
    metric.update(real_ND.double(), real=True)
    metric.update(fake_ND.double(), real=False)
    return float(metric.compute())


def kernel_distance(
    real_ND: Tensor, fake_ND: Tensor, *, subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased: it can be negative.

    Bińkowski et al., 2018, arXiv:1801.01401.

    Args:
        real_ND: features (N, D).
        fake_ND: features (M, D).
        subsets: number of random subsets.
        subset_size: images of either kind in each; at most min(N, M).
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets.
    """
    with _seeded(seed), _buffers_on_purpose():
        metric = KernelInceptionDistance(_Precomputed(real_ND.shape[1]), subsets=subsets, subset_size=subset_size)
        metric.update(real_ND.double(), real=True)
        metric.update(fake_ND.double(), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def classifier_score(logits_NK: Tensor, *, seed: int, splits: int = 10) -> float:
    """exp of the mean KL divergence from the marginal class distribution, mean over random splits.

    The Inception Score of Salimans et al., 2016, arXiv:1606.03498, on any classifier's logits.

    Args:
        logits_NK: class logits of generated images, (N, K).
        seed: of the order before the splits.
        splits: number of parts that are scored apart.
    """
    with _seeded(seed), _buffers_on_purpose():
        metric = InceptionScore(_Precomputed(logits_NK.shape[1]), splits=splits)
        metric.update(logits_NK.double())
        mean, _ = metric.compute()
    return float(mean)


def precision_and_recall(real_ND: Tensor, fake_ND: Tensor, *, neighbours: int) -> tuple[float, float]:
    """Improved precision and recall: Kynkäänniemi et al., 2019, arXiv:1904.06991.

    Args:
        real_ND: features (N, D), N > neighbours.
        fake_ND: features (M, D), M > neighbours.
        neighbours: k; each image's ball reaches to its k-th nearest neighbour of its own kind.

    Returns:
        Share of generated images within the balls of real ones, and the reverse; both in 0..1.

    Raises:
        ValueError: a set is too small for k.
    """
    if min(len(real_ND), len(fake_ND)) <= neighbours:
        found = f"{len(real_ND)} real and {len(fake_ND)} generated images"
        raise ValueError(f"found {found}; {neighbours} neighbours need at least {neighbours + 1} of each")
    real_ND, fake_ND = real_ND.double(), fake_ND.double()
    precision = _share_within(fake_ND, real_ND, neighbours)
    return precision, _share_within(real_ND, fake_ND, neighbours)


def _share_within(probes_ND: Tensor, manifold_ND: Tensor, neighbours: int) -> float:
    """Share of probes that lie in the ball of at least one point of the manifold."""
    # An image is its own nearest neighbour, hence one more.
    radii = torch.cat(
        [
            torch.cdist(rows, manifold_ND).kthvalue(neighbours + 1).values
            for rows in torch.split(manifold_ND, ROWS_AT_ONCE)
        ]
    )
    within = [(torch.cdist(rows, manifold_ND) <= radii).any(dim=1) for rows in torch.split(probes_ND, ROWS_AT_ONCE)]
    return float(torch.cat(within).double().mean())


def reconstruction_quality(pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """PSNR in dB of the squared error over all images together, and mean SSIM in -1..1.

    SSIM: Wang et al., 2004, doi:10.1109/TIP.2003.819861; Gaussian window of deviation 1.5 pixels, borders mirrored.
    PSNR over all images and not its mean per image, which one perfect image would make infinite.

    Args:
        pairs: originals and reconstructions, uint8, (n, C, H, W) each.
    """
    psnr = PeakSignalNoiseRatio(data_range=255.0).set_dtype(torch.float64)
    ssim = StructuralSimilarityIndexMeasure(data_range=255.0).set_dtype(torch.float64)
    for original_NCHW, reconstruction_NCHW in pairs:
        original, reconstruction = original_NCHW.double(), reconstruction_NCHW.double()
        psnr.update(reconstruction, original)
        ssim.update(reconstruction, original)
    similarity = ssim.compute()
    assert isinstance(similarity, Tensor)  # a pair only if asked for the contrasts too
    return {"reconstruction_psnr": float(psnr.compute()), "reconstruction_ssim": float(similarity)}


def measure(real_ND: Tensor, fake: Features, settings: EvaluateSettings) -> dict[str, float]:
    """All metrics over all images, by their published names.

    Args:
        real_ND: features of real images, (N, D).
        fake: features and logits of generated images.
    """
    names = NAMES[settings.extractor]
    kernel, kernel_std = kernel_distance(
        real_ND,
        fake.features_ND,
        subsets=settings.kid_subsets,
        subset_size=settings.kid_subset_size,
        seed=settings.seed,
    )
    precision, recall = precision_and_recall(real_ND, fake.features_ND, neighbours=settings.neighbours)
    return {
        names["frechet"]: frechet_distance(real_ND, fake.features_ND),
        names["kernel"]: kernel,
        names["kernel_std"]: kernel_std,
        names["score"]: classifier_score(fake.logits_NK, seed=settings.seed),
        names["precision"]: precision,
        names["recall"]: recall,
    }


def measure_category(real_ND: Tensor, fake_ND: Tensor, settings: EvaluateSettings) -> dict[str, float]:
    """The metrics that some hundreds of images allow: no Fréchet distance, its covariances lack rank.

    Args:
        real_ND: features of a category's real images, (N, D).
        fake_ND: features of as many generated ones, (N, D).

    Returns:
        NaN for each metric if the images are too few for k neighbours.
    """
    names = NAMES[settings.extractor]
    count = min(len(real_ND), len(fake_ND))
    if count <= settings.neighbours:
        return {names[kind]: float("nan") for kind in ("kernel", "precision", "recall")}
    kernel, _ = kernel_distance(real_ND, fake_ND, subsets=1, subset_size=count, seed=settings.seed)
    precision, recall = precision_and_recall(real_ND, fake_ND, neighbours=settings.neighbours)
    return {names["kernel"]: kernel, names["precision"]: precision, names["recall"]: recall}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torchmetrics draws from torch's global generator: seeds it, and gives it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _buffers_on_purpose() -> Iterator[None]:
    """torchmetrics warns that it keeps all features in memory: they are there anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features in buffer", UserWarning)
        yield
