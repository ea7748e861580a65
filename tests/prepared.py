"""Small prepared datasets, for tests that need the format rather than real photos."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

CATEGORIES = ("bag", "boot", "dress")


def write_prepared(
    folder: Path,
    counts: dict[str, int] | None = None,
    *,
    channels: int = 1,
    size: int = 32,
    seed: int = 0,
    digest: str = "d" * 64,
) -> Path:
    """Writes data/prepared with images that differ by category: a bright bar at a place of its own."""
    counts = counts or {"train": 96, "val": 12, "test": 48}
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, count in counts.items():
        labels = np.arange(count) % len(CATEGORIES)
        images = generator.integers(0, 60, (count, channels, size, size), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, :, 8 * label : 8 * label + 8] += generator.integers(100, 190, dtype=np.uint8)
        np.save(folder / f"{split}-00000.npy", images)
        rows.append(
            pd.DataFrame(
                {
                    "id": [f"{split}{index:06d}" for index in range(count)],
                    "split": split,
                    "shard": f"{split}-00000.npy",
                    "row": np.arange(count),
                    "file_name": [f"{split}/{index}.png" for index in range(count)],
                    "category": [CATEGORIES[label] for label in labels],
                    "group": pd.Series([None] * count, dtype=object),
                    "weight": 1.0,
                }
            )
        )
    pd.concat(rows, ignore_index=True).to_parquet(folder / "manifest.parquet")
    card = {
        "format": 1,
        "image_shape": [channels, size, size],
        "attributes": {"category": list(CATEGORIES)},
        "derived": [],
        "counts": counts,
        "digest": digest,
    }
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def without_conditions(folder: Path) -> Path:
    """Makes a prepared dataset one for unconditional models, as prepare writes it with `conditions: []`."""
    card = json.loads((folder / "dataset.json").read_text())
    manifest = pd.read_parquet(folder / "manifest.parquet")
    manifest.drop(columns=list(card["attributes"])).to_parquet(folder / "manifest.parquet")
    (folder / "dataset.json").write_text(json.dumps(card | {"attributes": {}}))
    return folder
