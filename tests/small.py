"""Model families with tiny networks, for tests that train them for a few steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from components.dataset import load_split
from components.generative import GenerativeModel, MicroBatch
from components.models import family_settings
from components.settings import FamilySettings
from components.training.batches import StepBlocks
from components.training.draws import Draws
from components.training.module import TrainingModule

SMALL = {
    "batch_size": 8,
    "images": 128,
    "latent_dim": 8,
    "width": 8,
    "group_size": 4,
    "ema_half_life": 16,
    "components": 2,
    "kl_warmup": 16,
    "warmup": 0,
}
"""By key, wherever in a family's settings it stands; what is null there stays null."""


def small_settings(family: str, **changes: Any) -> FamilySettings:
    """The family's settings of params.yaml with tiny networks, and with top-level keys changed."""
    path = Path(__file__).parents[1] / "params.yaml"
    raw = yaml.safe_load(path.read_text())["train"][family]
    return family_settings(family, shrunk(raw) | changes)


def shrunk(raw: dict[str, Any]) -> dict[str, Any]:
    """Settings with the values of SMALL, at any depth."""
    small = {}
    for key, value in raw.items():
        fitting = SMALL[key] if key in SMALL and value is not None else value
        small[key] = shrunk(value) if isinstance(value, dict) and key not in SMALL else fitting
    return small


def trained(
    model: GenerativeModel, prepared: Path, steps: int = 8, block: int = 3, callbacks: Sequence[Callback] = ()
) -> GenerativeModel:
    """The model after some real steps through Lightning on the split train."""
    blocks = StepBlocks(
        load_split(prepared, "train"),
        torch.device("cpu"),
        batch_size=model.settings.batch_size,
        steps=steps,
        block=block,
        seed=1,
    )
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(TrainingModule(model), DataLoader(blocks, batch_size=None))
    return model


def micro_batch(
    count: int = 8,
    *,
    channels: int = 1,
    cardinalities: tuple[int, ...] = (3,),
    rows: slice | None = None,
) -> MicroBatch:
    """A step's batch of noise, or some rows of it."""
    rows = rows or slice(0, count)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, 32, 32, generator=generator) * 2 - 1
    columns = [torch.arange(count) % values for values in cardinalities]
    conditions = torch.stack(columns, dim=1) if columns else torch.zeros(count, 0, dtype=torch.int64)
    draws = Draws(7, rows.start, rows.stop, count, torch.device("cpu"))
    return MicroBatch(images[rows], conditions[rows], draws)
