"""How many frames an image file has, without decoding one: files may claim a million."""

import struct

from PIL import Image

END, EXTENSION, PICTURE = 0x3B, 0x21, 0x2C
"""What a block of a GIF begins with."""


def frames_of(image: Image.Image, content: bytes, at_most: int) -> int:
    """Number of frames of an image that Pillow has opened; counts no further than `at_most` + 1.

    PNG, WebP and MPO say it in their header. Pillow finds those of a GIF or TIFF by reading each,
    which takes minutes for a file that is made to.
    """
    if image.format == "GIF":
        return _frames_of_gif(content, at_most)
    if image.format == "TIFF":
        return _frames_of_tiff(content, at_most)
    return min(int(getattr(image, "n_frames", 1)), at_most + 1)


def _frames_of_gif(content: bytes, at_most: int) -> int:
    """Pictures in a GIF (GIF89a specification, sections 17 to 27); at least 1."""
    position = 13 + _color_table_bytes(content, 10)
    frames = 0
    while position < len(content) and frames <= at_most:
        kind = content[position]
        if kind == PICTURE:
            frames += 1
            position += 10 + _color_table_bytes(content, position + 9) + 1
        elif kind == EXTENSION:
            position += 2
        elif kind == END:
            break
        else:  # Pillow goes on past such a byte too
            position += 1
            continue
        position = _past_sub_blocks(content, position)
    return max(1, frames)


def _color_table_bytes(content: bytes, flags_at: int) -> int:
    flags = content[flags_at] if flags_at < len(content) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _past_sub_blocks(content: bytes, position: int) -> int:
    """Where a run of sub-blocks ends: each has its length in its first byte, the last has none."""
    while position < len(content) and content[position]:
        position += 1 + content[position]
    return position + 1


def _frames_of_tiff(content: bytes, at_most: int) -> int:
    """Directories in a TIFF's chain of them; at least 1. A chain that bites its tail ends there."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    count, entry, offset = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
    seen: set[int] = set()
    at = 8 if big else 4
    try:
        (position,) = struct.unpack_from(offset, content, at)
        while position and position not in seen and len(seen) <= at_most:
            (entries,) = struct.unpack_from(count, content, position)
            seen.add(position)
            (position,) = struct.unpack_from(offset, content, position + struct.calcsize(count) + entries * entry)
    except struct.error:  # beyond the end of the file
        pass
    return max(1, len(seen))
