"""Augmentation of all that a discriminator sees, reals and fakes alike, that gradients pass through.

DiffAugment, Zhao et al., 2020, arXiv:2006.10738: a discriminator that is only shown augmented images cannot learn
few photos by heart, and a generator whose images are augmented likewise does not learn the augmentation. That
holds as long as part of the images stay as they are, the more so the lower the probability: Karras et al., 2020,
arXiv:2006.06676 (ADA), who also raise it by themselves as far as the discriminator overfits.

The changes are those of `components.augment`, with these differences: no clipping to [-1, 1], which would cut
off gradients, and shifts by whole pixels only, which need no interpolation.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from components.augment import cut_out, either_way, recolor
from components.generative import averaged_over_processes
from components.settings import AugmentSettings, Section, Share
from components.training.draws import Draws

NOTHING = AugmentSettings(
    flip=0.0,
    flip_not={},
    translate=0.0,
    scale=0.0,
    rotate=0.0,
    crop=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    noise=0.0,
    cutout=0.0,
)

DRAWS = ("chosen", "brightness", "contrast", "saturation", "shift_x", "shift_y", "cutout_x", "cutout_y")
"""What is drawn for each image, always all of it: switching one change on leaves the others' values."""


class AdaptiveProbability(Section):
    """A probability that follows how far the discriminator overfits."""

    start: Share
    target: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="mean sign of the discriminator's logits on reals, above which the probability rises; ADA: 0.6"
    )
    images: int = Field(ge=1, description="images seen in which it goes from 0 to 1, if it only rises; ADA: 500000")


class DiscriminatorAugmentSettings(Section):
    """Changes of real and generated images before the discriminator; DiffAugment's values in brackets."""

    probability: Share | AdaptiveProbability = Field(description="share of images that are changed")
    brightness: Share = Field(description="added to values in [-1, 1], at most (0.5)")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(description="0.1: between 0.9 and 1.1 times (0.5)")
    saturation: Share = Field(description="0.1: between 0.9 and 1.1 times (1.0); without effect on grey images")
    translate: Annotated[float, Field(ge=0, le=0.5)] = Field(
        description="shift in x and y, at most; share of the side (0.125)"
    )
    cutout: Share = Field(description="side of a square that is painted in mid-grey, share (0.5)")


class DiscriminatorAugmentation(nn.Module):
    """Changes a share of images, each in a way of its own.

    Attributes:
        probability: scalar buffer, float32; stays as it is unless the settings make it adaptive.
    """

    probability: Tensor

    def __init__(self, settings: DiscriminatorAugmentSettings) -> None:
        super().__init__()
        self.settings = settings
        chosen = settings.probability
        self.adaptive = chosen if isinstance(chosen, AdaptiveProbability) else None
        # A buffer, since a training that goes on needs it; on the device, since no step may wait for its value.
        self.register_buffer("probability", torch.tensor(chosen if isinstance(chosen, float) else chosen.start))
        wanted = ("brightness", "contrast", "saturation", "cutout")
        self._changes = NOTHING.model_copy(update={name: getattr(settings, name) for name in wanted})

    def forward(self, images_NCHW: Tensor, draws: Draws, stream: str) -> Tensor:
        """Augments.

        Args:
            images_NCHW: float images in [-1, 1].
            draws: randomness of the rows.
            stream: tells apart what is augmented in one step.

        Returns:
            float32 images, same shape, beyond [-1, 1] here and there. With a fixed probability of 0 the very
            tensor that was given.
        """
        if self.adaptive is None and not self.settings.probability:
            return images_NCHW
        uniform_ND = draws.uniform(f"augment {stream}", len(DRAWS))
        drawn = dict(zip(DRAWS, uniform_ND.unbind(dim=1), strict=True))
        images = images_NCHW.float()
        changed = recolor(images, self._changes, drawn)
        if self.settings.translate:
            changed = _shift(changed, self.settings.translate, drawn)
        if self.settings.cutout:
            changed = cut_out(changed, self.settings.cutout, drawn)
        return torch.where((drawn["chosen"] < self.probability)[:, None, None, None], changed, images)

    def adapt(self, sign_of_reals: Tensor, images: int) -> None:
        """Moves an adaptive probability by one step; a fixed one stays.

        Args:
            sign_of_reals: of this process; see `components.adversarial.losses.sign_of_reals`.
            images: of all processes in this step.
        """
        if self.adaptive is None:
            return
        # In place on a copy; all processes must go the same way.
        mean_sign = averaged_over_processes(sign_of_reals.detach().clone())
        move = (mean_sign - self.adaptive.target).sign() * (images / self.adaptive.images)
        self.probability.add_(move).clamp_(0.0, 1.0)


def _shift(images_NCHW: Tensor, share: float, drawn: dict[str, Tensor]) -> Tensor:
    """Moves each image by whole pixels; what comes into the frame repeats the border."""
    size = images_NCHW.shape[-1]
    position = torch.arange(size, device=images_NCHW.device)
    rows_NS, columns_NS = (
        (position + (share * size * either_way(drawn[name])).round().long()[:, None]).clamp(0, size - 1)
        for name in ("shift_y", "shift_x")
    )
    moved = images_NCHW.gather(2, rows_NS[:, None, :, None].expand_as(images_NCHW))
    return moved.gather(3, columns_NS[:, None, None, :].expand_as(images_NCHW))
