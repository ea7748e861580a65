"""The training photos nearest to an image by its pixels: also if it was shifted, flipped, cropped or recoloured.

Candidates are found by a descriptor that shifts, flips, brightness and contrast leave as it is; each is
then laid over the image in the best of many ways.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from components.dataset import Split

SIDE = 32
"""Height and width of the grey thumbnails that are compared."""
REACH = 2
"""Furthest shift, pixels of thumbnails of half the side: an eighth of it."""
MIDDLE = SIDE - 4 * REACH
"""Height and width of what is compared: an image's middle, which no such shift has lost."""
FREQUENCIES = 7
"""Highest one of the descriptor, in periods per two sides."""
SCALES = (0.9, 1.0, 1 / 0.9)
"""To which an image is brought: that of a photo it is a crop of, and of one that was cropped out of it."""
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
HYPOTHESES = 4
"""Ways to lay an image over a photo, the best ones at half the size, that are tried at full size."""
CANDIDATES = 16
"""Training photos that are laid over an image, at half the size."""
REFINED = 4
"""The best of these, which are laid over it at full size."""
LEAST_DEVIATION = 2.0
"""Of grey values, of 255: what is flatter has nothing to be compared."""
IMAGES_AT_ONCE, PHOTOS_AT_ONCE = 50, 10_000
SEARCHED_AT_ONCE = 250
"""Images whose candidates are looked for together."""
BLUR = torch.tensor(((1.0, 2.0, 1.0), (2.0, 4.0, 2.0), (1.0, 2.0, 1.0))) / 16
LUMA = torch.tensor((0.299, 0.587, 0.114))


@dataclass(frozen=True)
class PhotoIndex:
    """All training photos, as they are looked up.

    Attributes:
        thumbnails_NHW: grey, uint8.
        spectra_NS: descriptors of length 1, float16.
    """

    thumbnails_NHW: Tensor
    spectra_NS: Tensor


@dataclass(frozen=True)
class Neighbours:
    """Training photos near each image.

    Attributes:
        distances_NK: ascending.
        rows_NK: of the photos in the split train, int64.
    """

    distances_NK: Tensor
    rows_NK: Tensor


def index_photos(train: Split) -> PhotoIndex:
    """Goes through all photos of a split, a part at a time."""
    thumbnails, spectra = [], []
    for shard in train.shards:
        for start in range(0, len(shard), PHOTOS_AT_ONCE):
            # A copy, since what is mapped into memory may not be written to.
            grey_NHW = thumbnails_of(torch.from_numpy(np.array(shard[start : start + PHOTOS_AT_ONCE])))
            thumbnails.append(grey_NHW.round().to(torch.uint8))
            spectra.append(spectra_of(grey_NHW).half())
    return PhotoIndex(torch.cat(thumbnails), torch.cat(spectra))


def nearest_photos(images_NCHW: Tensor, index: PhotoIndex) -> Neighbours:
    """The CANDIDATES training photos most like each image, nearest first; fewer if there are fewer.

    The distance is that of the image's middle, in grey, to the part of the photo that it is most like,
    each brought to mean 0 and length 1: 0 for the same picture, about 1.4 for unrelated ones. Of all
    flips, scales and shifts the least counts.

    Args:
        images_NCHW: uint8, 1 or 3 channels.
        index: of the training photos.
    """
    found = []
    for searched in torch.split(images_NCHW, SEARCHED_AT_ONCE):
        grey_NHW = thumbnails_of(searched)
        zoomed = [_zoomed(grey_NHW, scale) for scale in SCALES]
        rows_NK = _candidates(torch.stack([spectra_of(grey) for grey in zoomed]), index.spectra_NS)
        versions_NVHW = torch.stack([torch.flip(grey, axes) for grey in zoomed for axes in FLIPS], dim=1)
        parts = zip(versions_NVHW.split(IMAGES_AT_ONCE), rows_NK.split(IMAGES_AT_ONCE), strict=True)
        cosines_NK = torch.cat([_best_cosines(part, index.thumbnails_NHW[rows].float()) for part, rows in parts])
        distances_NK, order_NK = (2 - 2 * cosines_NK).clamp_min(0).sqrt().sort(dim=1)
        found.append((distances_NK, rows_NK.gather(1, order_NK)))
    distances, rows = zip(*found, strict=True)
    return Neighbours(torch.cat(distances), torch.cat(rows))


def thumbnails_of(images_NCHW: Tensor) -> Tensor:
    """uint8 (N, 1 or 3, H, W) to grey float32 (N, SIDE, SIDE), 0 to 255.

    Slightly blurred, so that a shift by a part of a thumbnail's pixel changes little.
    """
    floats = images_NCHW.float()
    grey_N1HW = floats if floats.shape[1] == 1 else (floats * LUMA[:, None, None]).sum(dim=1, keepdim=True)
    small_N1HW = interpolate(grey_N1HW, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return conv2d(pad(small_N1HW, (1, 1, 1, 1), mode="replicate"), BLUR[None, None])[:, 0]


def spectra_of(grey_NHW: Tensor) -> Tensor:
    """Descriptors (N, S) of length 1 that neither shifts nor flips change, nor brightness nor contrast.

    Magnitudes of the low frequencies of an image on a ground of its border's colour. A flip swaps
    those of (u, v) and (-u, v), so that their sum and difference are kept. Square roots, since the
    lowest frequencies would drown out the rest.
    """
    border = torch.cat([grey_NHW[:, 0], grey_NHW[:, -1], grey_NHW[:, :, 0], grey_NHW[:, :, -1]], dim=1)
    flat_NP = (grey_NHW - border.median(dim=1).values[:, None, None]).flatten(1)
    real, imaginary = ((flat_NP @ basis).unflatten(1, (2 * FREQUENCIES + 1, -1)) for basis in _FOURIER)
    magnitudes = torch.hypot(real, imaginary)
    up, down = magnitudes[:, FREQUENCIES:], magnitudes[:, : FREQUENCIES + 1].flip(1)
    found_NS = torch.cat([(up + down).flatten(1), (up - down).abs().flatten(1)], dim=1).sqrt()
    unit_NS: Tensor = found_NS / found_NS.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return unit_NS


def _fourier_basis() -> tuple[Tensor, Tensor]:
    """Cosines and sines (SIDE * SIDE, frequencies) of an image with as much ground around it."""
    places, rows, columns = (
        torch.arange(SIDE),
        torch.arange(-FREQUENCIES, FREQUENCIES + 1),
        torch.arange(FREQUENCIES + 1),
    )
    vertical, horizontal = places[:, None] * rows, places[:, None] * columns
    phases = math.pi / SIDE * (vertical[:, None, :, None] + horizontal[None, :, None, :])
    flat = phases.reshape(SIDE * SIDE, -1)
    return flat.cos(), flat.sin()


_FOURIER = _fourier_basis()


def _zoomed(grey_NHW: Tensor, scale: float) -> Tensor:
    """Shrunk, with its border continued, or enlarged and cut at the border; the middle stays."""
    size = round(SIDE * scale)
    if size == SIDE:
        return grey_NHW
    resized = interpolate(grey_NHW[:, None], (size, size), mode="bilinear", antialias=True, align_corners=False)
    before, rest = divmod(SIDE - size, 2)
    # Negative widths cut.
    return pad(resized, (before, before + rest) * 2, mode="replicate")[:, 0]


def _candidates(versions_CNS: Tensor, spectra_NS: Tensor) -> Tensor:
    """Rows (N, K) of the photos whose descriptors are nearest to any version's."""
    best = torch.empty(versions_CNS.shape[1], 0)
    rows = torch.empty(versions_CNS.shape[1], 0, dtype=torch.int64)
    for start in range(0, len(spectra_NS), PHOTOS_AT_ONCE):
        part_NS = spectra_NS[start : start + PHOTOS_AT_ONCE].float()
        cosines_NT = (versions_CNS @ part_NS.T).amax(dim=0)
        values, places = cosines_NT.topk(min(CANDIDATES, len(part_NS)), dim=1)
        merged, merged_rows = torch.cat([best, values], dim=1), torch.cat([rows, places + start], dim=1)
        best, kept = merged.topk(min(CANDIDATES, merged.shape[1]), dim=1)
        rows = merged_rows.gather(1, kept)
    return rows


def _best_cosines(versions_NVHW: Tensor, photos_NKHW: Tensor) -> Tensor:
    """Highest correlation of the middle of any version with each photo at any shift, (N, K).

    The middle, since a shift or a crop lost what was at the border. All shifts are tried at half the
    size; of the best photos, around their best ones, those of a pixel at full size. The sign does not
    count: a negative of a photo is a copy too.
    """
    count, photos = photos_NKHW.shape[:2]
    versions, steps = versions_NVHW.shape[1], 2 * REACH + 1
    coarse_photos = _windows(avg_pool2d(photos_NKHW, 2), MIDDLE // 2).reshape(count, photos * steps**2, -1)
    coarse = avg_pool2d(versions_NVHW, 2)[..., REACH:-REACH, REACH:-REACH].flatten(2)
    cosines_NKJ = (_units(coarse_photos) @ _units(coarse).transpose(1, 2)).abs().unflatten(1, (photos, -1)).flatten(2)
    cosines_NK = cosines_NKJ.amax(dim=2)
    refined_NR = cosines_NK.topk(min(REFINED, photos), dim=1).indices
    images = torch.arange(count)[:, None]
    ways_NRJ = cosines_NKJ[images, refined_NR].topk(HYPOTHESES, dim=2).indices
    middles = _units(versions_NVHW[..., 2 * REACH : -2 * REACH, 2 * REACH : -2 * REACH].flatten(-2))
    middles = middles[images[..., None], ways_NRJ % versions]
    place = ways_NRJ // versions
    refined = _refined(photos_NKHW[images, refined_NR], middles, 2 * (place // steps), 2 * (place % steps))
    return torch.scatter(cosines_NK, 1, refined_NR, refined)


def _refined(photos_NRHW: Tensor, middles_NRJP: Tensor, rows_NRJ: Tensor, columns_NRJ: Tensor) -> Tensor:
    """Highest correlation (N, R) of the middles with windows near the places where they were found.

    Those a pixel around are tried, and around the best one those of half a pixel.
    """
    fine = _units(_nearby(photos_NRHW, rows_NRJ, columns_NRJ).flatten(3, 4))
    best_NR = (fine @ middles_NRJP[..., None]).abs().flatten(2).argmax(dim=2, keepdim=True)
    chosen, shift = best_NR // 9, best_NR % 9
    rows = (rows_NRJ.gather(2, chosen) + shift // 3 - 1).clamp(0, 4 * REACH)
    columns = (columns_NRJ.gather(2, chosen) + shift % 3 - 1).clamp(0, 4 * REACH)
    # The mean of two neighbouring windows is the one between them.
    mixed = torch.tensor(((0.5, 0.5, 0.0), (0.0, 1.0, 0.0), (0.0, 0.5, 0.5)))
    halves = torch.einsum("nkabp,ra,sb->nkrsp", _nearby(photos_NRHW, rows, columns)[:, :, 0], mixed, mixed)
    middle = middles_NRJP.gather(2, chosen[..., None].expand(-1, -1, -1, middles_NRJP.shape[-1]))
    return (_units(halves).flatten(2, 3) * middle).sum(dim=-1).abs().amax(dim=2)


def _nearby(photos_NKHW: Tensor, rows_NKJ: Tensor, columns_NKJ: Tensor) -> Tensor:
    """Windows at places and one pixel around them, (N, K, J, 3, 3, pixels)."""
    around = torch.arange(-1, 2)
    rows, columns = ((start[..., None] + around).clamp(0, 4 * REACH) for start in (rows_NKJ, columns_NKJ))
    images, photos = torch.arange(len(rows))[:, None, None], torch.arange(rows.shape[1])[:, None]
    windows = _windows(photos_NKHW, MIDDLE)
    found = windows[images[..., None, None], photos[..., None, None], rows[..., :, None], columns[..., None, :]]
    return found.flatten(-2)


def _windows(images_NKHW: Tensor, side: int) -> Tensor:
    """All square parts of that side: a view (N, K, rows, columns, side, side)."""
    return images_NKHW.unfold(2, side, 1).unfold(3, side, 1)


def _units(values: Tensor) -> Tensor:
    """Brought to mean 0 and length 1 along the last axis; what is nearly flat stays shorter."""
    centred = values - values.mean(dim=-1, keepdim=True)
    units: Tensor = centred / centred.norm(dim=-1, keepdim=True).clamp_min(
        LEAST_DEVIATION * math.sqrt(values.shape[-1])
    )
    return units
