"""Random changes of training images, whole batches at a time, on the device that trains.

All that moves pixels is composed into one affine map per image and sampled once: every further
sampling would blur, and cost as much again. The rest is arithmetic on the batch. Nothing waits for
the device, and no library's global generator is used: an image's changes are a function of seed,
step and place in the batch, so that a resumed training is the same training (which rules kornia's
random augmentations out; docs/augmentation.md has the measured comparison).
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from components.dataset import AttributeValues, Split
from components.errors import InputError
from components.images import to_float, to_uint8
from components.settings import AugmentSettings
from components.sheets import labelled_grids, rows_by_category
from components.training.draws import Draws, whole_batch

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in grey: ITU-R BT.601, as Pillow has it."""

MOVES = ("flip", "shift_x", "shift_y", "scale", "rotate", "crop", "crop_x", "crop_y")
DRAWS = (*MOVES, "brightness", "contrast", "saturation", "cutout_x", "cutout_y")
"""What is drawn for each image, always all of it: switching one change on leaves the others' values."""

SHEET_COLUMNS = 8
SHEET_ROWS = 10


def is_off(settings: AugmentSettings) -> bool:
    """Whether the settings leave every image as it is."""
    return not any(value for name, value in settings.model_dump().items() if name != "flip_not")


def check_augment(settings: AugmentSettings, attributes: AttributeValues) -> None:
    """Asks that what `flip_not` names is among the conditions of the data.

    Raises:
        InputError: it names an attribute or a value that the data does not have.
    """
    key = "params.yaml: train.common.augment.flip_not"
    for name, values in settings.flip_not.items():
        if name not in attributes:
            raise InputError(f"{key}: no condition '{name}'; prepare.conditions has {list(attributes)}")
        if unknown := [value for value in values if value not in attributes[name]]:
            raise InputError(f"{key}.{name}: the data has no {unknown}; it has {list(attributes[name])}")


def augment(
    images_NCHW: Tensor,
    conditions_NA: Tensor,
    draws: Draws,
    settings: AugmentSettings,
    attributes: AttributeValues,
) -> Tensor:
    """Changes each image of a batch in a way of its own.

    In this order: mirrored, scaled, rotated, shifted, cropped; then saturation, contrast, brightness,
    noise, cutout; clipped to [-1, 1] at the end. What comes into the frame from outside repeats
    the border (product photos have plain ones). Differentiable in the images.

    Args:
        images_NCHW: square float images in [-1, 1], with 1 or 3 channels.
        conditions_NA: int64, decides with `flip_not` which are never mirrored.
        draws: the only source of randomness, for the batch's rows, on the images' device.
        settings: section `train.common.augment`, as `check_augment` passes it.
        attributes: what the columns of conditions_NA mean.

    Returns:
        float32 images in [-1, 1], same shape. With all settings zero the very tensor that was given,
        and nothing is drawn.
    """
    if is_off(settings):
        return images_NCHW
    images = images_NCHW.float()
    uniform_ND = draws.uniform("augment", len(DRAWS))
    drawn = dict(zip(DRAWS, uniform_ND.unbind(dim=1), strict=True))
    if settings.flip:
        flipped_N = (drawn["flip"] < settings.flip) & _may_flip(conditions_NA, settings, attributes)
        images = torch.where(flipped_N[:, None, None, None], images.flip(-1), images)
    if settings.translate or settings.scale or settings.rotate or settings.crop:
        images = _move(images, settings, drawn)
    if settings.brightness or settings.contrast or settings.saturation:
        images = recolor(images, settings, drawn)
    if settings.noise:
        images = images + settings.noise * draws.normal("augment noise", *images.shape[1:])
    if settings.cutout:
        images = cut_out(images, settings.cutout, drawn)
    return images.clamp(-1.0, 1.0)


def _may_flip(conditions_NA: Tensor, settings: AugmentSettings, attributes: AttributeValues) -> Tensor:
    """Which images may be mirrored, bool (N,)."""
    may_N = torch.ones(len(conditions_NA), dtype=torch.bool, device=conditions_NA.device)
    names = list(attributes)
    for name, values in settings.flip_not.items():
        for value in values:
            # Against a plain number: a tensor of codes would be copied to the device at every step.
            may_N &= conditions_NA[:, names.index(name)] != attributes[name].index(value)
    return may_N


def _move(images_NCHW: Tensor, settings: AugmentSettings, drawn: dict[str, Tensor]) -> Tensor:
    """Scales, rotates, shifts and crops, in one bilinear sampling.

    `grid_sample` asks where each pixel of the result comes from, in coordinates from -1 to 1 over the
    frame: the crop's window first, then shift, rotation and scale undone.
    """
    size = images_NCHW.shape[-1]
    zoom = 1.0 / (1.0 + settings.scale * either_way(drawn["scale"]))
    angle = math.radians(settings.rotate) * either_way(drawn["rotate"])
    window = 1.0 - settings.crop * drawn["crop"]
    # By whole pixels: a shift alone then blurs nothing.
    shift_x, shift_y = (
        (settings.translate * size * either_way(drawn[name])).round() * (2.0 / size) for name in ("shift_x", "shift_y")
    )
    center_x = (1.0 - window) * either_way(drawn["crop_x"]) - shift_x
    center_y = (1.0 - window) * either_way(drawn["crop_y"]) - shift_y
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    centers = (2.0 * torch.arange(size, device=images_NCHW.device) + 1.0) / size - 1.0
    along_N1S = window[:, None, None] * centers
    # A term per column and one per row. `affine_grid` multiplies matrices for it, which takes four times as
    # long, and which autocast would do in bf16: 8 bits for a coordinate.
    columns_N2S = torch.stack([cos, -sin], dim=1)[:, :, None] * (along_N1S + center_x[:, None, None])
    rows_N2S = torch.stack([sin, cos], dim=1)[:, :, None] * (along_N1S + center_y[:, None, None])
    sources_NHW2 = columns_N2S.mT[:, None, :, :] + rows_N2S.mT[:, :, None, :]
    return grid_sample(images_NCHW, sources_NHW2, mode="bilinear", padding_mode="border", align_corners=False)


def recolor(images_NCHW: Tensor, settings: AugmentSettings, drawn: dict[str, Tensor]) -> Tensor:
    """Saturation about each pixel's grey, contrast about the image's mean, brightness added.

    All are linear, so the image itself is gone through once:
    contrast * (saturation * image + (1 - saturation) * grey) + (1 - contrast) * mean + brightness.
    """
    saturation, contrast = (
        1.0 + share * either_way(drawn[name])[:, None, None, None]
        for name, share in (("saturation", settings.saturation), ("contrast", settings.contrast))
    )
    brightness = settings.brightness * either_way(drawn["brightness"])[:, None, None, None]
    grey = _grey(images_NCHW)
    means = [values.mean(dim=(1, 2, 3), keepdim=True) for values in (grey, images_NCHW)]
    mean = torch.lerp(means[0], means[1], saturation)
    rest = contrast * (1.0 - saturation) * grey + ((1.0 - contrast) * mean + brightness)
    return torch.addcmul(rest, images_NCHW, contrast * saturation)


def _grey(images_NCHW: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) to (N, 1, H, W)."""
    if images_NCHW.shape[1] == 1:
        return images_NCHW
    red, green, blue = (share * images_NCHW[:, index, None] for index, share in enumerate(LUMA))
    return red + green + blue


def cut_out(images_NCHW: Tensor, share: float, drawn: dict[str, Tensor]) -> Tensor:
    """Paints a square in mid-grey; its centre is anywhere in the image, so that it may reach out of it.

    DeVries and Taylor, 2017, arXiv:1708.04552.
    """
    size = images_NCHW.shape[-1]
    side = round(share * size)
    position = torch.arange(size, device=images_NCHW.device)
    along = []
    for name in ("cutout_x", "cutout_y"):
        first_N1 = (drawn[name] * size).floor()[:, None] - side // 2
        along.append((position >= first_N1) & (position < first_N1 + side))
    columns_NW, rows_NH = along
    return images_NCHW.masked_fill((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], 0.0)


def either_way(uniform: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2.0 * uniform - 1.0


def contact_sheet(split: Split, settings: AugmentSettings, seed: int) -> Image.Image:
    """An image of each category and seven augmented versions of it, for the report.

    Args:
        split: the training images; the first ten categories are shown, each by an image drawn with
            the seed.
        settings: section `train.common.augment`.
        seed: the same one gives the same sheet.

    Returns:
        One row per category, labelled; the original on the left.

    Raises:
        InputError: see `check_augment`.
    """
    check_augment(settings, split.attributes)
    generator = torch.Generator().manual_seed(seed)
    shown = dict(list(rows_by_category(split).items())[:SHEET_ROWS])
    rows = [int(found[int(torch.randint(len(found), (), generator=generator))]) for found in shown.values()]
    originals = torch.from_numpy(split.gather(np.array(rows)))
    conditions = torch.from_numpy(split.conditions_NA[rows]).repeat_interleave(SHEET_COLUMNS - 1, dim=0)
    repeated = to_float(originals.repeat_interleave(SHEET_COLUMNS - 1, dim=0))
    draws = whole_batch(seed, len(repeated))
    versions = to_uint8(augment(repeated, conditions, draws, settings, split.attributes))
    return labelled_grids([("original", originals), ("augmented", versions)], list(shown))
