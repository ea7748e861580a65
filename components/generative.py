"""What every model family offers, so that training, evaluation and serving never ask its kind."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import LightningModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from components.batches import StepBlock, step_seed
from components.dataset import AttributeValues, DatasetInfo
from components.errors import InputError
from components.files import sha256_file, write_json, written_whole
from components.images import to_float
from components.models import family_settings, load_family

CARD = "model.json"
WEIGHTS = "weights.safetensors"

AUGMENTATION = 1
"""Number of its stream of randomness beside a step's own: the model's is the same with and without it."""

Augmentation = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Float images (N, C, H, W) in [-1, 1], conditions (N, A) and a generator on their device to changed images."""


class GenerativeModel(LightningModule, ABC):
    """A conditional generator of images.

    A family implements `optimise`, one optimiser step. Lightning hands over a block of steps at a
    time, since its own overhead per call is a good part of a small network's step.

    Attributes:
        augmentation: changes the training images at each step; None: they are taken as they are.
    """

    augmentation: Augmentation | None = None

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abstractmethod
    def optimise(
        self, step: int, images_NCHW: Tensor, conditions_NA: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Does one optimiser step.

        Args:
            step: counted from 0 over the whole training.
            images_NCHW: float images in [-1, 1].
            conditions_NA: int64.
            generator: the step's only source of randomness, on the model's device.

        Returns:
            Scalars to be logged, detached, on the device.
        """

    def descend(self, optimizer: Any, loss: Tensor) -> None:
        """Backward pass and optimiser step for one loss."""
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        optimizer.step()

    def training_step(self, block: StepBlock, _: int) -> None:
        """Does the block's optimiser steps and logs the mean of what they returned."""
        sums: dict[str, Tensor] = {}
        for index, seed in enumerate(block.seeds):
            generator = torch.Generator(self.device).manual_seed(seed)
            images, conditions = to_float(block.images_KNCHW[index]), block.conditions_KNA[index]
            if self.augmentation is not None:
                own_seed = step_seed(seed, AUGMENTATION)
                images = self.augmentation(images, conditions, torch.Generator(self.device).manual_seed(own_seed))
            scalars = self.optimise(block.first_step + index, images, conditions, generator)
            for name, value in scalars.items():
                sums[name] = sums[name] + value if name in sums else value
        means = {f"train/{name}": (total / len(block.seeds)).item() for name, total in sums.items()}
        for logger in self.loggers:
            logger.log_metrics(means, step=block.first_step + len(block.seeds))

    @abstractmethod
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        """Draws one image per row of conditions.

        Args:
            conditions_NA: int64, (N, A): per attribute the index of its value.
            generator: the only source of randomness, on the CPU: the same seed gives the same
                latents on every device.

        Returns:
            Float images in [-1, 1], (N, C, H, W), on the model's device.
        """

    @abstractmethod
    def sampling_state(self) -> dict[str, Tensor]:
        """The weights that `sample` (and `reconstruct`) need: what is saved and served."""

    @abstractmethod
    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        """Takes what `sampling_state` gave."""


@runtime_checkable
class Reconstructs(Protocol):
    """A model that encodes images can also be judged by how well it gives them back."""

    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        """Float images in [-1, 1] to their reconstructions, same shape and range, without noise."""


@dataclass(frozen=True)
class ModelCard:
    """What stands in model.json beside the weights.

    Attributes:
        family: the model's file under components/models/.
        settings: the family's settings it was built with.
        image_shape: (C, H, W).
        attributes: conditions and their values, in the order of the columns of conditions_NA.
        dataset_digest: SHA-256 of the prepared dataset it was trained on.
        weights_sha256: SHA-256 of weights.safetensors.
    """

    family: str
    settings: dict[str, Any]
    image_shape: tuple[int, int, int]
    attributes: AttributeValues
    dataset_digest: str
    weights_sha256: str


def build(family: str, settings: Any, info: DatasetInfo) -> GenerativeModel:
    """Makes an untrained model of a family.

    Args:
        settings: the family's settings, as `components.models.family_settings` gives them.
        info: the images it is made for.
    """
    model: GenerativeModel = load_family(family).build(settings, info.image_shape, info.cardinalities)
    return model


def save_model(model: GenerativeModel, family: str, settings: Any, info: DatasetInfo, folder: Path) -> ModelCard:
    """Writes weights.safetensors and model.json."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.sampling_state().items()}
    with written_whole(folder / WEIGHTS) as temporary:
        # Not its save_file: on a full disk that raises an error of its own instead of the system's.
        temporary.write_bytes(save(weights))
    card = ModelCard(
        family,
        settings.model_dump(mode="json"),
        info.image_shape,
        info.attributes,
        info.digest,
        sha256_file(folder / WEIGHTS),
    )
    write_json(folder / CARD, vars(card))
    return card


def load_card(folder: Path) -> ModelCard:
    """Reads model.json.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["image_shape"] = tuple(content["image_shape"])
        content["attributes"] = {name: tuple(values) for name, values in content["attributes"].items()}
        return ModelCard(**content)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; train with `dvc repro` or fetch it with `dvc pull`") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run `dvc checkout` or train again") from None


def load_model(folder: Path) -> GenerativeModel:
    """Builds the model that model.json describes and gives it its weights, ready to sample.

    Raises:
        InputError: the weights' bytes are not those that were saved, or do not fit the model.
    """
    card = load_card(folder)
    path = folder / WEIGHTS
    found = sha256_file(path) if path.exists() else "no such file"
    if found != card.weights_sha256:
        raise InputError(
            f"{path}: SHA-256 is {found}, {CARD} says {card.weights_sha256}; run `dvc checkout` or train again"
        )
    settings = family_settings(card.family, card.settings, where=str(folder / CARD))
    cardinalities = tuple(len(values) for values in card.attributes.values())
    model: GenerativeModel = load_family(card.family).build(settings, card.image_shape, cardinalities)
    try:
        model.load_sampling_state(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit this code's '{card.family}': {error}") from None
    return model.eval()
