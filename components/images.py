"""The one place where images change between uint8 and floats, and become pictures."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_float(images_NCHW: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return images_NCHW.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images_NCHW: Tensor) -> Tensor:
    """Floats in [-1, 1] to uint8 in 0..255, rounded to nearest; what lies outside is clipped."""
    return images_NCHW.float().add(1.0).mul(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)


def to_rgb(images_NCHW: Tensor) -> Tensor:
    """(N, 1, H, W) or (N, 3, H, W) to (N, 3, H, W), without a copy."""
    return images_NCHW.expand(-1, 3, -1, -1)


def picture(image_CHW: Tensor) -> Image.Image:
    """uint8 (C, H, W) with C of 1 or 3 to a Pillow image of mode L or RGB."""
    array = image_CHW.cpu().numpy()
    return Image.fromarray(array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1))


def grid(images_NCHW: Tensor, columns: int, gap: int = 2, scale: int = 1) -> Image.Image:
    """uint8 images row by row in one picture.

    Args:
        images_NCHW: uint8, (N, C, H, W).
        columns: images in a row.
        gap: white pixels around each image.
        scale: whole factor by which pixels are repeated, for small images.
    """
    count, channels, height, width = images_NCHW.shape
    rows = -(-count // columns)
    sheet = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for index, image in enumerate(images_NCHW.cpu()):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return picture(sheet.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2))
