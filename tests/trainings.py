"""Trainings as processes of their own, in folders like clones of the project, with networks as small as can be."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.files import sha256_file
from tests.forked import Program
from tests.prepared import write_prepared
from tests.project import SOURCE, set_params

BLOCKS, BLOCK, BATCH = 48, 2, 8
"""Blocks of a training, steps of a block, images of a step; there is a checkpoint every second block."""

SMALL: dict[str, Any] = {
    "train.common.accelerator": "cpu",
    "train.common.log_every": BLOCK,
    "train.common.grids": 3,
    "train.common.grid_columns": 2,
    "train.common.augment.translate": 0.1,
    "train.common.checkpoint": {"every": 2 * BLOCK * BATCH, "keep": 2},
    "train.common.quality": {"every": 25 * BLOCK * BATCH, "samples": 12, "resolution": 32, "patience": None},
    **{f"train.{family}.images": BLOCKS * BLOCK * BATCH for family in ("gan", "vae")},
    **{f"train.{family}.batch_size": BATCH for family in ("gan", "vae")},
    "train.gan.latent_dim": 8,
    "train.gan.generator.width": 4,
    "train.gan.discriminator.width": 4,
    "train.vae.autoencoder.width": 4,
    "train.vae.autoencoder.latent_dim": 4,
    "train.vae.density.components": 2,
}
OUTPUTS = ("w/weights.safetensors", "w/model.json", "r/training.csv", "r/training.json", "r/samples.png")


@dataclass
class Place:
    """A folder in which one training runs, as a clone of the project would be."""

    folder: Path
    family: str
    tracking: str
    environment: Mapping[str, str]

    def start(self) -> Program:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_", "VITRINE_"))}
        return Program(
            "components.train",
            [f"--model={self.family}", "--prepared=prepared", "--weights=w", "--reports=r"],
            folder=self.folder,
            environment={
                **inherited,
                "PYTHONPATH": str(SOURCE),
                "MLFLOW_TRACKING_URI": self.tracking,
                "VITRINE_CACHE": str(self.folder / "cache"),
                **self.environment,
            },
            log=self.folder / "log.txt",
        )

    def train(self) -> None:
        assert self.start().wait(timeout=400) == 0, self.log

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    @property
    def run_id(self) -> str:
        return str(json.loads((self.folder / "r/run.json").read_text())["run_id"])

    @property
    def last_step(self) -> int:
        """Of the newest checkpoint; 0 if there is none."""
        names = [path.stem for path in self.folder.glob(".vitrine/checkpoints/*/*/step-*.json")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def outputs(self) -> dict[str, str]:
        """SHA-256 of each: of bytes that differ pytest would make a comparison, for hours."""
        return {name: sha256_file(self.folder / name) for name in OUTPUTS}


def make_place(folder: Path, family: str, tracking: str, **environment: str) -> Place:
    folder.mkdir(parents=True, exist_ok=True)
    write_prepared(folder / "prepared")
    shutil.copy(SOURCE / "params.yaml", folder)
    set_params(folder, SMALL)
    return Place(folder, family, tracking, environment)
