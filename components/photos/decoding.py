"""From the bytes of an image file to 8-bit sRGB pixels. Files may be hostile: see docs/security.md.

What a header promises is checked before any pixel is decoded. That a decoder may still hang, crash
or eat memory is the matter of components/guarded/guard.py, in whose processes `decode` is to be called.
"""

import io
import re
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from components.photos.color_profiles import to_srgb
from components.photos.frames import frames_of
from components.photos.pixels import COLOUR_MODES, GREY, eight_bit, flatten
from components.settings import DecodingSettings

__all__ = ["COLOUR_MODES", "FORMATS", "GREY", "Decoded", "UndecodableError", "decode", "flatten"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of photos. Others that Pillow knows start programs (EPS) or are hardly tested."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation to what makes the photo upright; 1 is upright already."""

ERROR_CHARACTERS = 200
"""Length of an error's text: a damaged file's may quote much of it."""


class UndecodableError(ValueError):
    """The bytes are no photo, or one that costs too much; the message is the same on every run."""


@dataclass(frozen=True)
class Decoded:
    """A photo, upright.

    Attributes:
        format: Pillow's name of the file's format; JPEG for a phone's JPEG with further pictures (MPO) too.
        mode: Pillow's mode as stored in the file.
        frames: 1 but for animations and files of several pictures; the first is what counts.
        width, height: of the upright photo, pixels, at its full scale.
        image: its first frame, sRGB, 8 bits per channel, of mode L, LA, RGB or RGBA; smaller
            than width x height if a reduced scale was asked for.
    """

    format: str
    mode: str
    frames: int
    width: int
    height: int
    image: Image.Image


def decode(content: bytes, limits: DecodingSettings, *, at_least: int | None = None) -> Decoded:
    """Decodes all pixels of the first frame; see Decoded.

    Args:
        at_least: a JPEG may be decoded at a half, quarter or eighth of its scale, as long as its
            shorter side keeps this many pixels: much quicker than to decode it and shrink it.
            Other formats have no such shortcut and come at their full scale.

    Raises:
        UndecodableError: not an image of FORMATS, damaged, with pixels of a kind that COLOUR_MODES
            lacks, or with more pixels or frames than `limits` admit.
        MemoryError: there is not enough for this photo; never said of the file, for it may be
            others that hold it.
    """
    # Pillow's own guard, which covers frames and tiles that exceed what the header said.
    others, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.pixels
    try:
        with warnings.catch_warnings():
            # Pillow warns of damage that it has mended, and of metadata that is not used here.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(content, limits, at_least)
    except (MemoryError, UndecodableError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UndecodableError(f"more than {limits.pixels:,} pixels in a frame (decoding.pixels)") from None
    # What Pillow raises on damaged bytes has no common class: OSError, SyntaxError, zlib.error, ...
    except Exception as error:
        if isinstance(error, OSError) and "out of memory" in str(error):  # a decoder's own way to say so
            raise MemoryError from error
        if content[4:8] == b"ftyp":
            raise UndecodableError("HEIF, AVIF or a video, which are not read; convert it to JPEG or PNG") from None
        raise UndecodableError(_stable_text(error)) from None
    finally:
        Image.MAX_IMAGE_PIXELS = others


def _decode(content: bytes, limits: DecodingSettings, at_least: int | None) -> Decoded:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        frames = frames_of(image, content, limits.frames)
        if frames > limits.frames:
            raise UndecodableError(f"more than {limits.frames:,} frames (decoding.frames)")
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        mode = image.mode
        full = image.size  # of a TIFF, Pillow says it as turned upright
        if at_least is not None and kind == "JPEG":
            image.draft(None, (at_least, at_least))
        image.load()
        turn = _turn(image)
        upright = to_srgb(eight_bit(image), image.info.get("icc_profile"), image.mode)
        if turn is not None:
            upright = upright.transpose(turn)
            full = full[::-1] if turn in _SWAPPING else full
    return Decoded(kind, mode, frames, *full, upright)


_SWAPPING = frozenset(TURNS[orientation] for orientation in (5, 6, 7, 8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    # Pillow turns TIFFs itself as it loads them, and forgets the tag.
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above; a photo is not lost for damaged metadata
        return None


def _stable_text(error: Exception) -> str:
    """The error without the memory address that Pillow puts in, on one line."""
    if isinstance(error, UnidentifiedImageError):
        return f"no image of {', '.join(FORMATS)}, or its header is damaged"
    text = re.sub(r" at 0x[0-9a-f]+", "", str(error))
    text = "".join(letter if letter.isprintable() else " " for letter in text)[:ERROR_CHARACTERS].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
