"""Packaged models: small, real, loadable."""

from pathlib import Path

import torch

from components.dataset import load_info
from components.generative import build, load_card, save_model
from components.packaging import save_package
from tests.prepared import without_conditions, write_prepared
from tests.small import small_settings


def write_model(folder: Path, *, conditions: bool = True, channels: int = 1, seed: int = 0) -> Path:
    """An untrained GAN whose images are no single grey; returns the folder of its weights."""
    prepared = write_prepared(folder / "prepared", channels=channels)
    info = load_info(prepared if conditions else without_conditions(prepared))
    settings = small_settings("gan")
    torch.manual_seed(seed)
    model = build("gan", settings, info)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)
    save_model(model, "gan", settings, info, folder / "gan")
    return folder / "gan"


def write_package(folder: Path, *, conditions: bool = True, channels: int = 1) -> Path:
    """The same, packaged as for the registry."""
    model_dir = write_model(folder, conditions=conditions, channels=channels)
    save_package(model_dir, load_card(model_dir).attributes, folder / "package")
    return folder / "package"
