import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from components.photos.decoding import COLOUR_MODES, Decoded, UndecodableError, flatten
from components.photos.decoding import decode as decode_within
from components.photos.frames import frames_of
from components.settings import DecodingSettings
from tests.fuzzing import LIMITS, gif_of_frames, png_of, tiff_chain

Encode = Callable[..., bytes]

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def decode(content: bytes, limits: DecodingSettings = LIMITS, at_least: int | None = None) -> Decoded:
    return decode_within(content, limits, at_least=at_least)


@pytest.mark.parametrize(
    ("image", "kind", "stored", "worked_on"),
    [
        (Image.fromarray(GREY), "PNG", "L", "L"),
        (Image.fromarray(GREY), "JPEG", "L", "L"),
        (Image.fromarray(GREY > 100), "PNG", "1", "L"),
        (Image.fromarray(GREY).convert("LA"), "PNG", "LA", "LA"),
        (Image.fromarray(COLOUR), "PNG", "RGB", "RGB"),
        (Image.fromarray(COLOUR), "WEBP", "RGB", "RGB"),
        (Image.fromarray(COLOUR).convert("RGBA"), "PNG", "RGBA", "RGBA"),
        (Image.fromarray(COLOUR).convert("P"), "GIF", "P", "RGB"),
        (Image.fromarray(COLOUR).convert("CMYK"), "JPEG", "CMYK", "RGB"),
        (Image.fromarray(COLOUR).convert("CMYK"), "TIFF", "CMYK", "RGB"),
    ],
)
def test_modes(image: Image.Image, kind: str, stored: str, worked_on: str, encoded: Encode) -> None:
    photo = decode(encoded(image, kind))
    assert (photo.format, photo.mode, photo.image.mode) == (kind, stored, worked_on)
    assert COLOUR_MODES[stored].startswith(worked_on[:1])
    assert photo.image.size == (4, 3)


def test_pixels_are_kept(encoded: Encode) -> None:
    assert np.array_equal(np.asarray(decode(encoded(COLOUR)).image), COLOUR)


def test_sixteen_bits_become_eight(encoded: Encode) -> None:
    deep = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(decode(encoded(deep)).image).tolist() == [[0, 0, 1, 0x12, 0xFF]]


def test_a_palette_gives_its_colours(encoded: Encode) -> None:
    """The same indices, other colours."""
    pictures = []
    for palette in ([10, 20, 30, 40, 50, 60], [40, 50, 60, 10, 20, 30]):
        image = Image.new("P", (2, 1))
        image.putdata([0, 1])
        image.putpalette(palette)
        pictures.append(np.asarray(decode(encoded(image)).image).tolist())
    assert pictures == [[[[10, 20, 30], [40, 50, 60]]], [[[40, 50, 60], [10, 20, 30]]]]


def test_a_transparent_colour_counts_as_alpha(encoded: Encode) -> None:
    photo = decode(encoded(Image.fromarray(np.array([[7, 9]], dtype=np.uint8)), transparency=7))
    assert photo.image.mode == "LA"
    assert np.asarray(photo.image)[0].tolist() == [[7, 0], [9, 255]]


def test_photos_are_turned_upright(encoded: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = decode(encoded(COLOUR, exif=exif)).image
    assert np.array_equal(np.asarray(upright), np.rot90(COLOUR, k=-1))


def test_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [200, 0, 100, 128]]], dtype=np.uint8)
    flat = np.asarray(flatten(Image.fromarray(pixels), 3))
    assert flat[0, :2].tolist() == [[200, 0, 100], [255, 255, 255]]
    np.testing.assert_allclose(flat[0, 2], np.array([200, 0, 100]) * 128 / 255 + 127, atol=1)


def test_grey_alpha_stays_exact_where_opaque() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    opaque = np.stack([levels, np.full_like(levels, 255)], axis=-1)
    assert np.array_equal(np.asarray(flatten(Image.fromarray(opaque), 1)), levels)
    assert np.array_equal(np.asarray(flatten(Image.fromarray(opaque), 3)), np.repeat(levels[..., None], 3, axis=-1))


def test_what_a_header_promises_is_checked_before_pixels_are_made() -> None:
    for width, height in ((10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(UndecodableError, match=r"^more than 50,000,000 pixels in a frame \(decoding\.pixels\)$"):
            decode(png_of(width, height, b""))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_limit_of_pixels_holds_for_each_format(kind: str, encoded: Encode) -> None:
    """To the pixel."""
    content = encoded(np.zeros((30, 40, 3), dtype=np.uint8), kind)
    assert decode(content, LIMITS.model_copy(update={"pixels": 1200})).image.size == (40, 30)
    with pytest.raises(UndecodableError, match="more than 1,199 pixels"):
        decode(content, LIMITS.model_copy(update={"pixels": 1199}))


@pytest.mark.parametrize("keep", [0, 4, 20, 300, -30])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused(kind: str, keep: int, encoded: Encode) -> None:
    rng = np.random.default_rng(0)
    content = encoded(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    with pytest.raises(UndecodableError):
        decode(content[:keep])


def test_a_flipped_bit_in_the_pixels_is_noticed(encoded: Encode) -> None:
    content = bytearray(encoded(GREY))
    content[45] ^= 1
    with pytest.raises(UndecodableError):
        decode(bytes(content))


def test_formats_that_start_programs_are_not_opened(encoded: Encode) -> None:
    content = encoded(COLOUR, "EPS")
    Image.open(io.BytesIO(content))  # Pillow itself knows it
    with pytest.raises(UndecodableError, match="no image of PNG"):
        decode(content)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 255.0]], dtype=np.float32), [0, 100, 255]),
        (np.array([[0.0, 257.0, 65535.0]], dtype=np.float32), [0, 1, 255]),
        (np.array([[0, 1, 255]], dtype=np.int32), [0, 1, 255]),
        (np.array([[0, 1, 1]], dtype=np.int32), [0, 1, 1]),
        (np.array([[0, 0x0101, 0xFFFF]], dtype=np.int32), [0, 1, 255]),
    ],
)
def test_pixels_of_32_bits_are_scaled_by_the_white_that_fits(
    values: np.ndarray, expected: list[int], encoded: Encode
) -> None:
    photo = decode(encoded(values, "TIFF"))
    assert photo.image.mode == "L"
    assert np.asarray(photo.image).tolist() == [expected]


@pytest.mark.parametrize("values", [[-1.0, 5.0], [0.0, float("nan")], [0.0, float("inf")], [0.0, 1e30]])
def test_pixels_without_a_known_white_are_refused(values: list[float], encoded: Encode) -> None:
    with pytest.raises(UndecodableError, match="white may be"):
        decode(encoded(np.array([values], dtype=np.float32), "TIFF"))


def test_other_kinds_of_pixels_are_refused(encoded: Encode) -> None:
    with pytest.raises(UndecodableError, match="mode LAB is none of"):
        decode(encoded(Image.new("LAB", (4, 3)), "TIFF"))


def test_errors_are_the_same_on_every_run() -> None:
    texts = set()
    for _ in range(3):
        with pytest.raises(UndecodableError) as caught:
            decode(b"no image" * 50)
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert "0x" not in texts.pop()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("size", "at_least", "reduced"),
    [
        ((400, 534), 100, (100, 134)),
        ((400, 534), 101, (200, 267)),
        ((400, 534), 201, (400, 534)),
        ((400, 534), 50, (50, 67)),
        ((400, 534), 1, (50, 67)),
        ((401, 99), 64, (401, 99)),
        ((401, 99), 49, (201, 50)),
    ],
)
def test_a_jpeg_is_reduced_while_its_shorter_side_is_long_enough(
    size: tuple[int, int],
    at_least: int,
    reduced: tuple[int, int],
    mode: str,
    options: dict[str, bool],
    encoded: Encode,
) -> None:
    picture = Image.radial_gradient("L").resize(size).convert("RGB").convert(mode)
    content = encoded(picture, "JPEG", quality=95, **options)
    photo = decode(content, at_least=at_least)
    assert photo.image.size == reduced
    assert (photo.width, photo.height) == size
    assert photo.mode == mode
    whole = decode(content).image.resize(reduced, Image.Resampling.BOX)
    np.testing.assert_allclose(np.asarray(photo.image, float), np.asarray(whole, float), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_orientations_are_turned_upright(kind: str, orientation: int, encoded: Encode) -> None:
    """Against numpy's own turns, reduced or not."""
    upright = np.zeros((96, 64, 3), dtype=np.uint8)
    upright[:48, :32] = (250, 0, 0)
    upright[48:, :32] = (0, 250, 0)
    upright[:48, 32:] = (0, 0, 250)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(np.ascontiguousarray(stored), kind, exif=exif, **options)
    for at_least in (None, 32):
        photo = decode(content, at_least=at_least)
        assert (photo.width, photo.height) == (64, 96)
        scale = 2 if kind == "JPEG" and at_least else 1
        assert photo.image.size == (64 // scale, 96 // scale)
        difference = np.abs(np.asarray(photo.image, int) - upright[::scale, ::scale])
        assert np.mean(difference) < (3 if kind == "JPEG" else 1e-9)


def test_orientations_that_there_are_not_are_ignored(encoded: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(encoded(COLOUR, exif=exif)).image.size == (4, 3)
    # An EXIF block that ends in the middle of its first entry.
    assert decode(encoded(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")).image.size == (4, 3)


def test_sixteen_bits_of_colour_become_eight() -> None:
    values = np.array([0x00FF, 0x1234, 0xFFFF, 0xABCD, 0x0100, 0x0000], dtype=">u2")
    photo = decode(png_of(2, 1, b"\0" + values.tobytes(), depth=16, kind=2))
    assert photo.mode == "RGB"
    assert np.asarray(photo.image).tolist() == [[[0x00, 0x12, 0xFF], [0xAB, 0x01, 0x00]]]


def test_a_palette_s_transparent_colours_are_kept(encoded: Encode) -> None:
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    photo = decode(encoded(image, transparency=bytes([0, 128, 255])))
    assert np.asarray(photo.image).tolist() == [[[10, 20, 30, 0], [40, 50, 60, 128], [70, 80, 90, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str, encoded: Encode) -> None:
    pictures = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue", "black")]
    content = encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], lossless=True)
    photo = decode(content)
    assert photo.frames == 4
    assert photo.image.convert("RGB").getcolors() == [(48, (255, 0, 0))]
    assert decode(content, LIMITS.model_copy(update={"frames": 4})).frames == 4
    with pytest.raises(UndecodableError, match=r"^more than 3 frames \(decoding\.frames\)$"):
        decode(content, LIMITS.model_copy(update={"frames": 3}))


def test_a_phone_s_jpeg_of_several_pictures_is_a_jpeg(encoded: Encode) -> None:
    pictures = [Image.new("RGB", (64, 32), color) for color in ("red", "blue")]
    content = encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    photo = decode(content, at_least=16)
    assert (photo.format, photo.frames, photo.image.size) == ("JPEG", 2, (32, 16))
    assert photo.image.getpixel((3, 3)) == (254, 0, 0)


@pytest.mark.timeout(20)
def test_a_million_frames_are_refused_at_once() -> None:
    with pytest.raises(UndecodableError, match="more than 200 frames"):
        decode(gif_of_frames(1_000_000))
    with pytest.raises(UndecodableError, match="more than 200 frames"):
        decode(tiff_chain(100_000))


@pytest.mark.parametrize("count", [1, 2, 200])
def test_frames_are_counted_as_pillow_counts_them(count: int) -> None:
    for content in (gif_of_frames(count), tiff_chain(count), tiff_chain(count, big=True)):
        with Image.open(io.BytesIO(content)) as image:
            assert image.n_frames == count  # type: ignore[attr-defined]
        assert decode(content).frames == count


@pytest.mark.parametrize("content", [gif_of_frames(9), tiff_chain(9)])
def test_frames_are_not_counted_further_than_needed(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        assert frames_of(image, content, 3) == 4
        assert frames_of(image, content, 9) == 9


def test_a_chain_of_directories_that_bites_its_tail_ends(encoded: Encode) -> None:
    content = bytearray(encoded(COLOUR, "TIFF"))
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    assert decode(bytes(content)).frames == 1


def test_what_is_hidden_behind_or_in_a_picture_changes_nothing(encoded: Encode) -> None:
    """A ZIP archive, a PDF, a script: only the pixels are taken."""
    archive = b"PK\x05\x06" + bytes(18)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        plain = encoded(COLOUR, kind)
        for behind in (archive, b"%PDF-1.7\n%%EOF", b"<script>alert(1)</script>" * 100):
            assert decode(plain + behind).image.tobytes() == decode(plain).image.tobytes()
    commented = encoded(COLOUR, "JPEG", comment=b"<?php system($_GET[0]); ?>")
    assert decode(commented).image.tobytes() == decode(encoded(COLOUR, "JPEG")).image.tobytes()


def test_compressed_text_that_grows_is_refused(encoded: Encode) -> None:
    """64 MiB in 64 KiB, as a comment or as a colour profile."""
    packed = zlib.compress(bytes(64 * 2**20), 9)
    plain = encoded(COLOUR)
    for kind, data in ((b"zTXt", b"Comment\0\0" + packed), (b"iCCP", b"icc\0\0" + packed)):
        chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        with pytest.raises(UndecodableError, match="too large"):
            decode(plain[:33] + chunk + plain[33:])


def test_pixels_beyond_what_the_header_promised_are_not_made() -> None:
    """A kilobyte of pixels in the header, 256 MiB in the data."""
    content = png_of(32, 32, bytes(256 * 2**20))
    assert decode(content).image.size == (32, 32)


def test_an_error_s_text_is_short_stable_and_one_line(encoded: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the file it quotes."""

    def fails(*_: object) -> None:
        raise ValueError(f"<object at 0x{id(object()):x}>\n\x1b[31m\0" + "a" * 10_000)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(UndecodableError, match=r"^ValueError: <object>  \[31m a{100,200}$"):
        decode(encoded(COLOUR))


def test_running_out_of_memory_is_not_the_file_s_fault(encoded: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the guard's: in a process of its own, it may be."""

    def fails(*_: object) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(MemoryError):
        decode(encoded(COLOUR))


def test_the_transparent_value_of_a_deep_grey_png_is_laid_on_white(encoded: Callable[..., bytes]) -> None:
    deep = np.array([[0x8000, 0x1234]], dtype=np.uint16)
    opaque, some = (encoded(deep, **options) for options in ({}, {"transparency": 0x1234}))
    assert np.asarray(flatten(decode(opaque).image, 1)).tolist() == [[0x80, 0x12]]
    assert np.asarray(flatten(decode(some).image, 1)).tolist() == [[0x80, 255]]


def test_a_deep_tiff_in_which_zero_is_white_is_turned_round(encoded: Callable[..., bytes]) -> None:
    content = encoded(np.array([[0, 0xFFFF, 0x8000]], dtype=np.uint16), "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(content)) as image:
        assert (image.mode, image.tag_v2[262]) == ("I;16", 0)  # type: ignore[attr-defined]
    assert np.asarray(decode(content).image).tolist() == [[255, 0, 127]]


def test_a_phones_format_is_named() -> None:
    with pytest.raises(UndecodableError, match="HEIF, AVIF or a video, which are not read; convert it"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100))
