"""Image files that are damaged, or made to do damage; the same for the same seed."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from components.settings import DecodingSettings

LIMITS = DecodingSettings(pixels=50_000_000, frames=200, seconds=20.0, memory_mb=1024)

SLOW = "jpeg of 5,000 scans"
"""Of made_files, what takes half a minute: only a limit of time helps."""

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

Generator = np.random.Generator


def mutated_files(count: int, seed: int, photos: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """`count` files, each a photo to which one or two kinds of damage were done, with names that say which.

    Args:
        photos: image files, of any format, to be damaged; others are drawn.
    """
    generator = np.random.default_rng(seed)
    whole = [*photos, *drawn_files(generator)]
    for number in range(count):
        content = whole[generator.integers(len(whole))]
        names = []
        for _ in range(generator.integers(1, 3)):
            damage = DAMAGES[generator.integers(len(DAMAGES))]
            names.append(damage.__name__)
            content = damage(content, whole[generator.integers(len(whole))], generator)
        yield f"{number:05}-{'-'.join(names)}", content


def drawn_files(generator: Generator) -> list[bytes]:
    """A picture in each format and in many kinds of pixels, well-formed."""
    rough = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture = rough.resize((70, 90), Image.Resampling.BICUBIC)
    frames = [picture.rotate(angle) for angle in (90, 180)]
    files = [encode(picture, kind) for kind in KINDS]
    files += [encode(picture, kind, save_all=True, append_images=frames) for kind in ("GIF", "WEBP", "PNG", "TIFF")]
    files += [encode(picture.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
    files += [encode(picture.convert(mode), "TIFF") for mode in ("1", "L", "CMYK", "RGBA", "I", "F")]
    packings = ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "tiff_adobe_deflate")
    files += [encode(picture, "TIFF", compression=packing) for packing in packings]
    files += [encode(picture.convert("1"), "TIFF", compression=packing) for packing in ("group3", "group4")]
    files.append(encode(picture, "JPEG", progressive=True))
    files.append(encode(picture.convert("CMYK"), "JPEG"))
    files.append(encode(picture.convert("RGBA"), "WEBP", lossless=True))
    return files


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def truncated(content: bytes, _other: bytes, generator: Generator) -> bytes:
    return content[: generator.integers(len(content) + 1)]


def flipped(content: bytes, _other: bytes, generator: Generator) -> bytes:
    """Up to 20 bits anywhere."""
    return _changed(content, generator, len(content))


def flipped_head(content: bytes, _other: bytes, generator: Generator) -> bytes:
    """Up to 20 bits where headers are."""
    return _changed(content, generator, 200)


def _changed(content: bytes, generator: Generator, within: int) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.integers(1, 21)):
        if changed:
            changed[generator.integers(min(within, len(changed)))] ^= 1 << generator.integers(8)
    return bytes(changed)


def zeroed(content: bytes, _other: bytes, generator: Generator) -> bytes:
    start, end = sorted(generator.integers(0, len(content) + 1, 2).tolist())
    return content[:start] + bytes(end - start) + content[end:]


def spliced(content: bytes, other: bytes, generator: Generator) -> bytes:
    """The beginning of one file and the end of another, of whatever format."""
    return content[: generator.integers(len(content) + 1)] + other[generator.integers(len(other) + 1) :]


def stuffed(content: bytes, other: bytes, generator: Generator) -> bytes:
    """A piece of another file in the midst of this one."""
    start, end = sorted(generator.integers(0, len(other) + 1, 2).tolist())
    position = generator.integers(len(content) + 1)
    return content[:position] + other[start:end] + content[position:]


def repeated(content: bytes, _other: bytes, generator: Generator) -> bytes:
    """A piece of the file again and again."""
    start, end = sorted(generator.integers(0, len(content) + 1, 2).tolist())
    return content[:end] + content[start:end] * int(generator.integers(1, 20)) + content[end:]


def extreme(content: bytes, _other: bytes, generator: Generator) -> bytes:
    """Numbers of 16 or 32 bits set to the largest or smallest there are."""
    changed = bytearray(content)
    numbers = (b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\x80\0\0\0")
    for _ in range(int(generator.integers(1, 5))):
        number = numbers[generator.integers(len(numbers))]
        position = int(generator.integers(max(1, min(300, len(changed)))))
        changed[position : position + len(number)] = number
    return bytes(changed)


def disguised(content: bytes, _other: bytes, generator: Generator) -> bytes:
    """Other things before or after: an archive, a page, a script, a document."""
    things = (b"PK\x05\x06" + bytes(18), b"<html><script>x</script>", b"#!/bin/sh\n", b"%PDF-1.4\n", b"GIF89a", b"BM")
    thing = things[generator.integers(len(things))]
    return thing + content if generator.integers(2) else content + thing


DAMAGES = (truncated, flipped, flipped_head, zeroed, spliced, stuffed, repeated, extreme, disguised)


def made_files() -> dict[str, bytes]:
    """Bombs and traps, each made for one weakness of a decoder."""
    side = 4000  # all zeros, and at the limit that the test sets
    blank = bytes((side + 1) * side)
    packed_text = zlib.compress(bytes(64 * 2**20), 9)
    dark = Image.new("RGB", (side, side))
    return {
        "empty": b"",
        "zeros": bytes(5000),
        "text": b"no photo\n" * 100,
        "png of 60,000 x 60,000": png_of(60_000, 60_000, bytes(1000)),
        "png of 2**31-1 squared": png_of(2**31 - 1, 2**31 - 1, b""),
        "png of 0 x 0": png_of(0, 0, b""),
        "png of 16 megapixels": png_of(side, side, blank),
        "png of 16 megapixels in 16 bits and colour": png_of(side, side, blank, depth=16, kind=2),
        "png with more pixels than it says": png_of(8, 8, bytes(64 * 2**20)),
        "png with a large comment": _with_chunk(png_of(8, 8, bytes(72)), b"zTXt", b"a\0\0" + packed_text),
        "png with a large profile": _with_chunk(png_of(8, 8, bytes(72)), b"iCCP", b"a\0\0" + packed_text),
        "png with 100,000 chunks": _with_chunk(png_of(8, 8, bytes(72)), b"tEXt", b"a\0b", times=10**5),
        "png of 2**31 frames": _with_chunk(png_of(8, 8, bytes(72)), b"acTL", struct.pack(">II", 2**31, 0)),
        "gif of 65,535 x 65,535": gif_of_frames(1, 65535, 65535),
        "gif of a million frames": gif_of_frames(10**6),
        "gif whose frame exceeds it": gif_of_frames(1, frame=(60_000, 60_000)),
        "webp of 16 megapixels": encode(dark, "WEBP", lossless=True, quality=0, method=0),
        "webp of 16,384 x 16,384": _webp_of_largest_size(),
        "jpeg of 65,535 x 65,535": _resized_jpeg(65535, 65535),
        "jpeg of 4,000 x 4,000 and hardly any pixels": _resized_jpeg(side, side),
        SLOW: _jpeg_of_scans(5_000),
        "tiff of 2**32-1 squared": _tiff({256: 2**32 - 1, 257: 2**32 - 1}),
        "tiff of 16 megapixels without any": _tiff({256: side, 257: side}),
        "tiff of 16 megapixels, packed": encode(dark, "TIFF", compression="tiff_deflate"),
        "tiff with rows beyond its end": _tiff({256: side, 257: side, 278: 2**31, 279: 2**31}),
        "tiff of 2**16-1 channels": _tiff({277: 65535}),
        "tiff of 100,000 directories": tiff_chain(100_000),
        "tiff that bites its tail": _tiff({}, following=16),
        "bmp of 2**31-1 squared": _resized_bmp(2**31 - 1, 2**31 - 1),
        "bmp of negative size": _resized_bmp(-5000, -5000),
    }


def png_of(width: int, height: int, pixels: bytes, depth: int = 8, kind: int = 0) -> bytes:
    """A grey PNG whose header may promise more than it holds, or less."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _with_chunk(png: bytes, name: bytes, data: bytes, times: int = 1) -> bytes:
    return png[:33] + _chunk(name, data) * times + png[33:]


def gif_of_frames(count: int, width: int = 1, height: int = 1, frame: tuple[int, int] = (1, 1)) -> bytes:
    """An animation whose frames of one pixel cost 15 bytes each."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return head + picture * count + b"\x3b"


def _webp_of_largest_size() -> bytes:
    """A lossless WebP of 16,384 x 16,384 in its header (14 bits each, less one)."""
    content = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    position = content.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", content, position)
    struct.pack_into("<I", content, position, bits | 0x0FFFFFFF)
    return bytes(content)


def _resized_jpeg(width: int, height: int) -> bytes:
    content = bytearray(encode(Image.new("RGB", (16, 16), "red"), "JPEG"))
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    return bytes(content)


def _jpeg_of_scans(count: int) -> bytes:
    """The last scan of a progressive JPEG again and again: each goes through all pixels."""
    content = encode(Image.new("L", (2000, 2000), 77), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def _resized_bmp(width: int, height: int) -> bytes:
    content = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    struct.pack_into("<ii", content, 18, width, height)
    return bytes(content)


def _tiff(changes: dict[int, int], following: int = 0) -> bytes:
    """One grey pixel, but for the tags that are changed."""
    fields = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1} | changes
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    head = struct.pack("<2sHI", b"II", 42, 16) + b"\x80".ljust(8, b"\0")
    return head + struct.pack("<H", len(fields)) + body + struct.pack("<I", following)


def tiff_chain(count: int, big: bool = False) -> bytes:
    """A TIFF of `count` directories, which all show the same grey pixel."""
    pointer, number, start = ("Q", "Q", 16) if big else ("I", "H", 8)
    entries = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, start), (277, 1), (278, 1), (279, 1)]
    layout = struct.Struct(f"<{number}" + f"HH{pointer}{pointer}" * len(entries) + pointer)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, start + 8) if big else struct.pack("<2sHI", b"II", 42, start + 8)
    body = []
    for index in range(count):
        following = start + 8 + (index + 1) * layout.size if index + 1 < count else 0
        fields = [value for tag, content in entries for value in (tag, 4, 1, content)]
        body.append(layout.pack(len(entries), *fields, following))
    return head + b"\x80".ljust(8, b"\0") + b"".join(body)
