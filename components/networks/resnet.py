"""Residual networks after SNGAN and BigGAN, with self-attention and logits from several resolutions.

Miyato et al., 2018, arXiv:1802.05957 (blocks, initialisation); Brock et al., 2018, arXiv:1809.11096
(channels that follow the resolution, a last block at 4 pixels); Zhang et al., 2018, arXiv:1805.08318
(attention). Adapted: a shortcut's 1 by 1 convolution stands on the smaller side of the resampling, with
which it commutes, and the generator takes conditions beside the latent, not in its batch normalisation.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from components.networks.attention import SelfAttention
from components.networks.batch_norm import BatchNorm
from components.networks.blocks import BASE_SIZE, ConditionEmbedding, ProjectionHead, dropout, pyramid_widths
from components.networks.discriminator import Discriminator
from components.networks.settings import DiscriminatorSettings, GeneratorSettings, ImageShape, UnfitError


class UpBlock(nn.Module):
    """Twice the resolution: (N, before, H, W) to (N, after, 2H, 2W)."""

    def __init__(self, before: int, after: int, dropout_share: float) -> None:
        super().__init__()
        # No biases: the next batch normalisation would take them out again.
        self.activation = nn.Sequential(BatchNorm(before), nn.ReLU(inplace=True))
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.second = nn.Sequential(
            BatchNorm(after),
            nn.ReLU(inplace=True),
            *dropout(dropout_share),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(_double(self.activation(features_NCHW))))
        return residual + _double(self.shortcut(features_NCHW))


class DownBlock(nn.Module):
    """Half the resolution, or the same: (N, before, H, W) to (N, after, H / 2, W / 2).

    Args:
        activate: whether it begins with an activation; not where it sees the image itself.
        halve: whether the resolution is halved, by means of 2 by 2 pixels.
    """

    def __init__(self, before: int, after: int, dropout_share: float, *, activate: bool, halve: bool) -> None:
        super().__init__()
        self.activate, self.halve = activate, halve
        hidden = before if activate else after
        self.first = nn.Conv2d(before, hidden, 3, padding=1)
        self.second = nn.Sequential(
            nn.ReLU(inplace=True), *dropout(dropout_share), nn.Conv2d(hidden, after, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()

    def forward(self, features_NCHW: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(relu(features_NCHW) if self.activate else features_NCHW))
        if self.halve:
            residual, features_NCHW = avg_pool2d(residual, 2), avg_pool2d(features_NCHW, 2)
        shortcut: Tensor = self.shortcut(features_NCHW)
        return residual + shortcut


class Generator(nn.Module):
    """Latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1].

    Raises:
        UnfitError: there is no layer at the resolution that attention is to stand at.
    """

    def __init__(
        self, settings: GeneratorSettings, latent_dim: int, image_shape: ImageShape, cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = pyramid_widths(size, settings.width, settings.max_width)[::-1]
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.stem = nn.Linear(latent_dim + self.embedding.dim, widths[0] * BASE_SIZE**2)
        sizes = [BASE_SIZE * 2**stage for stage in range(1, len(widths))]
        _check_attention(settings.attention, sizes)
        self.body = nn.Sequential()
        for resolution, before, after in zip(sizes, widths[:-1], widths[1:], strict=True):
            self.body.append(UpBlock(before, after, settings.dropout))
            if resolution == settings.attention:
                self.body.append(SelfAttention(after))
        self.out = nn.Sequential(
            BatchNorm(widths[-1]), nn.ReLU(inplace=True), nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Tanh()
        )
        self.apply(init_resnet)

    def forward(self, z: Tensor, conditions_NA: Tensor) -> Tensor:
        stem = self.stem(torch.cat([z, self.embedding(conditions_NA)], dim=1))
        images: Tensor = self.out(self.body(stem.view(len(z), -1, BASE_SIZE, BASE_SIZE)))
        return images


class ResnetDiscriminator(Discriminator):
    """See `Discriminator`; its features are the sums that its blocks give, before the activation.

    With `multi_scale` the logit is the mean over heads at all resolutions, so that details are judged as
    well as the whole (Sauer et al., 2021, arXiv:2111.01007, whose discriminators see several levels of
    features and have equal weights).

    Raises:
        UnfitError: there is no layer at the resolution that attention is to stand at.
    """

    def __init__(
        self, settings: DiscriminatorSettings, image_shape: ImageShape, cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = pyramid_widths(size, settings.width, settings.max_width)[1:]
        sizes = [size // 2 ** (stage + 1) for stage in range(len(widths))]
        _check_attention(settings.attention, sizes[:-1])
        stages: list[nn.Sequential] = []
        for resolution, before, after in zip(sizes, [channels, *widths], widths, strict=False):
            stage = nn.Sequential(DownBlock(before, after, settings.dropout, activate=bool(stages), halve=True))
            if resolution == settings.attention:
                stage.append(SelfAttention(after))
            stages.append(stage)
        stages[-1].append(DownBlock(widths[-1], widths[-1], settings.dropout, activate=True, halve=False))
        self.body = nn.ModuleList(stages)
        judged = widths if settings.multi_scale else widths[-1:]
        self.heads = nn.ModuleList(ProjectionHead(judged_width, cardinalities) for judged_width in judged)
        self.apply(init_resnet)

    def features(self, images_NCHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self.body:
            maps.append(stage(maps[-1] if maps else images_NCHW))
        return maps

    def judge(self, features: list[Tensor], conditions_NA: Tensor) -> Tensor:
        judged = features[-len(self.heads) :]
        logits = [head(pooled(map_NCHW), conditions_NA) for head, map_NCHW in zip(self.heads, judged, strict=True)]
        return torch.stack(logits).mean(dim=0)


def pooled(features_NCHW: Tensor) -> Tensor:
    """Activated features summed over the pixels, (N, C), as if there were 4 by 4 of them at any resolution."""
    return relu(features_NCHW).mean(dim=(2, 3)) * BASE_SIZE**2


def _double(features_NCHW: Tensor) -> Tensor:
    return interpolate(features_NCHW, scale_factor=2, mode="nearest")


def _check_attention(attention: int | None, sizes: list[int]) -> None:
    if attention is not None and attention not in sizes:
        allowed = f"this network has layers at {sorted(sizes)} pixels"
        raise UnfitError(f"attention: found {attention}; {allowed}: choose one of these, or null")


def init_resnet(module: nn.Module) -> None:
    """Glorot's uniform weights, with a gain of the root of 2 before activations, as SNGAN starts; no biases."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        gain = 2**0.5 if module.weight.dim() == 4 and module.kernel_size == (3, 3) else 1.0
        nn.init.xavier_uniform_(module.weight, gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
