"""ICC colour profiles: pixels as sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from components.photos.pixels import GREY

PROFILE_BYTES = 2**22
"""A larger profile is not read; those of printers have about half a megabyte."""

CUBE = 17
"""Colours per channel by which a profile is compared with sRGB."""


def to_srgb(image: Image.Image, profile: object, stored: str) -> Image.Image:
    """The image, of mode L, LA, RGB, RGBA or CMYK, in sRGB; CMYK becomes RGB.

    A profile that is damaged or meant for other pixels is ignored: browsers do so too, and the
    photo still shows its product. Relative colorimetric, with black point compensation.

    Args:
        profile: bytes of the ICC profile, if there is one.
        stored: Pillow's mode of the file.
    """
    cmyk = image.mode == "CMYK"
    grey = image.mode in GREY
    # A grey picture's RGB profile, or a palette's of another kind, says nothing about these pixels.
    space = "CMYK" if cmyk else "L" if grey else "RGB"
    transform = None
    if isinstance(profile, bytes) and 0 < len(profile) <= PROFILE_BYTES and stored != "YCbCr":
        transform = _transform(profile, space)
    if transform is None:
        return image.convert("RGB") if cmyk else image
    if image.mode in ("LA", "RGBA"):
        *colours, alpha = image.split()
        mode = "L" if grey else "RGB"
        opaque = _applied(transform, Image.merge(mode, colours))
        opaque.putalpha(alpha)
        return opaque
    return _applied(transform, image)


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = transform.apply(image)
    # Grey goes by way of RGB, whose channels are then alike.
    return converted.getchannel(0) if image.mode == "L" else converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, space: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile to sRGB; None if it cannot be used, or if it is sRGB but for rounding."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.ImageCmsTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            space,
            "RGB",
            intent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform if space == "CMYK" or _changes_colours(transform, space) else None


def _changes_colours(transform: ImageCms.ImageCmsTransform, space: str) -> bool:
    """Whether any of a cube of colours moves by more than 1 of 255."""
    levels = np.round(np.linspace(0, 255, CUBE)).astype(np.uint8)
    if space == "L":
        colours = np.broadcast_to(levels[None, :, None], (1, CUBE, 3))
        image = Image.fromarray(levels[None])
    else:
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        image = Image.fromarray(np.ascontiguousarray(colours))
    moved = np.asarray(transform.apply(image)).astype(np.int16)
    return bool(np.abs(moved - colours).max() > 1)
