import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from components.copying.pixels import CANDIDATES, PhotoIndex, index_photos, nearest_photos, spectra_of, thumbnails_of
from components.dataset import Split


def photos(count: int, channels: int = 3, size: int = 64, seed: int = 0) -> Tensor:
    """Smooth coloured blobs on white, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 8, 8, generator=generator) * 200
    smooth = interpolate(coarse, (size // 2, size // 2), mode="bicubic", align_corners=False)
    margin = size // 4
    return pad(smooth, (margin,) * 4, value=255.0).clamp(0, 255).round().to(torch.uint8)


def split_of(images: Tensor, shards: int = 2) -> Split:
    manifest = pd.DataFrame({"id": [f"photo-{row}" for row in range(len(images))]})
    return Split(tuple(np.array_split(images.numpy(), shards)), manifest, {})


@pytest.fixture(scope="module")
def index() -> PhotoIndex:
    return index_photos(split_of(photos(60)))


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    return torch.roll(images, (down, right), (-2, -1))


def cropped(images: Tensor) -> Tensor:
    inner = images[:, :, 3:61, 2:60].float()
    return interpolate(inner, images.shape[-2:], mode="bilinear", align_corners=False).round().to(torch.uint8)


def enlarged_ground(images: Tensor) -> Tensor:
    small = interpolate(images.float(), (58, 58), mode="bilinear", antialias=True)
    return pad(small, (3, 3, 3, 3), value=255.0).round().to(torch.uint8)


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5)) * 8
    return (images + noise).clamp(0, 255).round().to(torch.uint8)


CHANGES = {
    "none": lambda images: images,
    "flipped": lambda images: images.flip(-1),
    "upside down": lambda images: images.flip(-2),
    "turned": lambda images: images.flip(-1, -2),
    "shifted": lambda images: shifted(images, 8, -8),
    "shifted a little": lambda images: shifted(images, -3, 1),
    "shifted and flipped": lambda images: shifted(images, 5, 7).flip(-1),
    "darker": lambda images: (images * 0.5 + 10).to(torch.uint8),
    "negative": lambda images: 255 - images,
    "recoloured": lambda images: (images * torch.tensor([1.0, 0.6, 0.8])[:, None, None]).to(torch.uint8),
    "cropped": cropped,
    "zoomed out": enlarged_ground,
    "noisy": noisy,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_leads_to_its_photo(index: PhotoIndex, change: str) -> None:
    rows = torch.arange(20, 40)
    found = nearest_photos(CHANGES[change](photos(60)[rows]), index)
    assert torch.equal(found.rows_NK[:, 0], rows)
    assert float((found.distances_NK[:, 0] / found.distances_NK[:, 1:].mean(dim=1)).max()) < 0.6


def test_a_shifted_copy_is_told_from_the_twins_of_its_photo() -> None:
    """Shifted by what is half a pixel at half the size: only at full size the twins' own texture is seen."""
    twins = photos(8).repeat_interleave(4, dim=0)
    texture = torch.randn(len(twins), 1, 32, 32, generator=torch.Generator().manual_seed(7)) * 20
    textured = (twins * 0.5 + 60 + interpolate(texture, scale_factor=2)).clamp(0, 255).to(torch.uint8)
    found = nearest_photos(shifted(textured, 2, 0), index_photos(split_of(textured)))
    assert torch.equal(found.rows_NK[:, 0], torch.arange(32))
    assert float(found.distances_NK[:, 0].mean()) < 0.012


def test_other_images_are_far(index: PhotoIndex) -> None:
    copies = nearest_photos(photos(60)[:20], index).distances_NK[:, 0]
    others = nearest_photos(photos(20, seed=1), index).distances_NK[:, 0]
    assert float(copies.max()) < 0.05
    assert float(others.min()) > 5 * float(copies.max())


def test_candidates_come_nearest_first_and_once(index: PhotoIndex) -> None:
    found = nearest_photos(photos(5, seed=2), index)
    assert found.distances_NK.shape == (5, CANDIDATES)
    assert bool((found.distances_NK.diff(dim=1) >= 0).all())
    assert all(len(set(rows)) == CANDIDATES for rows in found.rows_NK.tolist())


def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch, index: PhotoIndex) -> None:
    images = photos(7, seed=3)
    whole = nearest_photos(images, index)
    monkeypatch.setattr("components.copying.pixels.PHOTOS_AT_ONCE", 7)
    monkeypatch.setattr("components.copying.pixels.IMAGES_AT_ONCE", 3)
    parts = nearest_photos(images, index_photos(split_of(photos(60), shards=3)))
    torch.testing.assert_close(parts.distances_NK, whole.distances_NK, atol=2e-3, rtol=0)


def test_fewer_photos_than_candidates() -> None:
    found = nearest_photos(photos(2, seed=1), index_photos(split_of(photos(3))))
    assert found.rows_NK.shape == (2, 3)


def test_flat_images_are_like_nothing() -> None:
    flat = torch.full((2, 1, 32, 32), 128, dtype=torch.uint8)
    found = nearest_photos(flat, index_photos(split_of(photos(20, channels=1, size=32))))
    assert float(found.distances_NK.min()) > 1.4


def test_descriptors_do_not_see_shifts_flips_and_contrast() -> None:
    images = photos(4)
    same = spectra_of(thumbnails_of(images))
    for change in ("flipped", "turned", "shifted", "darker"):
        assert float((same * spectra_of(thumbnails_of(CHANGES[change](images)))).sum(dim=1).min()) > 0.999
    others = spectra_of(thumbnails_of(photos(4, seed=9)))
    assert float((same * others).sum(dim=1).max()) < 0.999
