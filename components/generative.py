"""What every model family offers, so that training, evaluation and serving never ask its kind."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, distributed, nn

from components.dataset import AttributeValues, DatasetInfo
from components.errors import InputError
from components.files import sha256_file, write_json, written_whole
from components.images import to_float
from components.interpolation import linear
from components.models import family_settings, load_family
from components.networks.averaging import Average
from components.settings import FamilySettings
from components.training.batches import StepBlock
from components.training.draws import Draws, seed_layers, step_seed

CARD = "model.json"
WEIGHTS = "weights.safetensors"

Augmentation = Callable[[Tensor, Tensor, Draws], Tensor]
"""Float images (N, C, H, W) in [-1, 1], conditions (N, A) and the rows' randomness to changed images."""

Encoded = Iterable[tuple[Tensor, Tensor]]
"""Chunks of float images (n, C, H, W) in [-1, 1] and conditions (n, A), on the model's device."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass sees: a step's whole batch, or a part of it.

    Attributes:
        images_NCHW: float images in [-1, 1], augmented.
        conditions_NA: int64.
        draws: the rows' randomness, the only source there is; on the images' device.
    """

    images_NCHW: Tensor
    conditions_NA: Tensor
    draws: Draws


@dataclass(frozen=True)
class Step:
    """An optimiser step.

    Attributes:
        number: counted from 0 over the whole training.
        images_seen: by all processes before this step, repeats counted.
        progress: share of the training that is done, from 0 to 1: what schedules go by.
        parts: the batch in micro-batches of equal size, whose gradients are averaged.
        optimizers: those of `configure_optimizers`.
    """

    number: int
    images_seen: int
    progress: float
    parts: tuple[MicroBatch, ...]
    optimizers: tuple[torch.optim.Optimizer, ...] = ()


@dataclass(frozen=True)
class BlockLog:
    """What `optimise` returned in a block of steps, as plain numbers.

    Attributes:
        last_step: number of optimiser steps done when the block ended.
        images_seen: by all processes until then.
        values: per name, pairs of a step's number and its value; a name may be missing from some steps.
    """

    last_step: int
    images_seen: int
    values: dict[str, list[tuple[int, float]]]

    def means(self) -> dict[str, float]:
        """Mean of each value over the block."""
        return {name: fmean(value for _, value in pairs) for name, pairs in self.values.items()}


Objective = Callable[[MicroBatch], tuple[Tensor, dict[str, Tensor]]]
"""A micro-batch to the loss (a scalar, mean over the images) and scalars to be logged."""


class GenerativeModel(nn.Module, ABC):
    """A conditional generator of images.

    A family implements `optimise`, one optimiser step. A training hands over a block of steps at a
    time, since Lightning's overhead per call is a good part of a small network's step. All that training
    changes is a parameter, a buffer, or an optimiser's state: what a checkpoint holds.

    Attributes:
        settings: the family's.
        augmentation: changes the training images at each step; None: they are taken as they are.
        refitted: beginnings of names in `sampling_state` that `fit_sampling` sets, and training never does.
    """

    augmentation: Augmentation | None = None
    refitted: tuple[str, ...] = ()

    def __init__(self, settings: FamilySettings) -> None:
        super().__init__()
        self.settings = settings

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """New optimisers of its weights, in the order in which each step has them; none of what is never trained."""
        return []

    @abstractmethod
    def optimise(self, step: Step) -> dict[str, Tensor]:
        """Does one optimiser step, by calling `update` for each optimiser.

        Returns:
            Scalars to be logged, detached, on the device. Nothing here may wait for the device.
        """

    def update(self, optimizer: torch.optim.Optimizer, step: Step, objective: Objective) -> dict[str, Tensor]:
        """Backward passes of all micro-batches, gradients averaged over them and over the processes, one step.

        Gradients are reduced here and not by DistributedDataParallel, whose hooks expect one backward
        pass per forward pass: no room for two networks, second derivatives and several steps a call.

        Returns:
            Means of the objective's scalars over the micro-batches.
        """
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in step.parts:
            loss, scalars = objective(part)
            (loss / len(step.parts)).backward()
            for name, value in scalars.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        average_gradients(parameters)
        if (clip := self.settings.gradient_clip) is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        return {name: value / len(step.parts) for name, value in sums.items()}

    def train_block(self, block: StepBlock, optimizers: Sequence[torch.optim.Optimizer]) -> BlockLog:
        """Does the block's optimiser steps; waits for the device once, at the end."""
        scalars = [self.optimise(self._step(block, index, optimizers)) for index in range(len(block.seeds))]
        done = block.first_step + len(scalars)
        values: dict[str, list[tuple[int, float]]] = {name: [] for row in scalars for name in row}
        logged = [value.float() for row in scalars for value in row.values()]
        numbers = iter(averaged_over_processes(torch.stack(logged)).tolist() if logged else [])
        for index, row in enumerate(scalars):
            for name in row:
                values[name].append((block.first_step + index, next(numbers)))
        return BlockLog(done, done * block.batch_size, values)

    def _step(self, block: StepBlock, index: int, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
        """Step of a block, its images augmented, in micro-batches."""
        number, seed, images_NCHW = block.first_step + index, block.seeds[index], block.images_NCHW(index)
        own, device = len(images_NCHW), images_NCHW.device
        seed_layers(step_seed(seed, block.first_row), device)
        size = own // self.settings.accumulate
        parts = []
        for start in range(0, own, size):
            rows = slice(start, start + size)
            first = block.first_row + start
            draws = Draws(seed, first, first + size, block.batch_size, device)
            images, conditions = to_float(images_NCHW[rows]), block.conditions_KNA[index, rows]
            if self.augmentation is not None:
                images = self.augmentation(images, conditions, draws)
            parts.append(MicroBatch(images, conditions, draws))
        seen = number * block.batch_size
        return Step(number, seen, min(1.0, seen / self.settings.images), tuple(parts), tuple(optimizers))

    def fit_sampling(self, images: Callable[[], Encoded]) -> None:
        """Settles what `sample` needs beside trained weights, as the density of a VAE's latents.

        Called before samples are judged in the course of a training, and once more at its end.

        Args:
            images: goes through training images, not augmented, chunk by chunk; each call anew.
        """

    @abstractmethod
    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        """Draws what the images of these conditions are generated from.

        Args:
            conditions_NA: int64, (N, A): per attribute the index of its value.
            generator: the only source of randomness, on the CPU: the same seed gives the same
                latents on every device.

        Returns:
            One latent per row of conditions, float (N, D), on the model's device.
        """

    @abstractmethod
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        """Makes one image per latent: always the same one of the same latent and conditions.

        Args:
            latents_ND: on the model's device.
            conditions_NA: int64, (N, A).

        Returns:
            Float images in [-1, 1], (N, C, H, W), on the model's device.
        """

    @torch.inference_mode()
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        """Draws one image per row of conditions: latents, and what is generated from them.

        Args:
            conditions_NA: int64, (N, A): per attribute the index of its value.
            generator: the only source of randomness, on the CPU.

        Returns:
            Float images in [-1, 1], (N, C, H, W), on the model's device.
        """
        return self.generate(self.draw_latents(conditions_NA, generator), conditions_NA)

    def interpolate(self, first_ND: Tensor, second_ND: Tensor, shares_K: Tensor) -> Tensor:
        """Latents on the way from one to another, (N, K, D): on a straight line, unless a family knows better.

        Args:
            shares_K: of the way, 0 to 1.
        """
        return linear(first_ND, second_ND, shares_K)

    @abstractmethod
    def sampling_state(self) -> dict[str, Tensor]:
        """The weights that `sample` (and `reconstruct`) need: what is saved and served."""

    @abstractmethod
    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        """Takes what `sampling_state` gave."""

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Takes what `sampling_state` gave as the start of a training: also into the networks that averages follow."""
        self.load_sampling_state(state)
        for module in self.modules():
            if isinstance(module, Average):
                module.give_back()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Means of the gradients over all processes of a distributed training; nothing in a single one."""
    if not distributed.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(flat.split(sizes), gradients, strict=True)])


def averaged_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes of a distributed training; itself in a single one."""
    if distributed.is_initialized():
        distributed.all_reduce(value)
        value = value / distributed.get_world_size()
    return value


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
    weights = load_weights(folder, card)
    settings = family_settings(card.family, card.settings, where=str(folder / CARD))
    cardinalities = tuple(len(values) for values in card.attributes.values())
    model: GenerativeModel = load_family(card.family).build(settings, card.image_shape, cardinalities)
    try:
        model.load_sampling_state(weights)
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS}: does not fit this code's '{card.family}': {error}") from None
    return model.eval()


def load_weights(folder: Path, card: ModelCard) -> dict[str, Tensor]:
    """The sampling state that was saved, on the CPU.

    Raises:
        InputError: its bytes are not those that were saved, or no weights.
    """
    path = folder / WEIGHTS
    found = sha256_file(path) if path.exists() else "no such file"
    if found != card.weights_sha256:
        raise InputError(
            f"{path}: SHA-256 is {found}, {CARD} says {card.weights_sha256}; run `dvc checkout` or train again"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: cannot be read: {error}; run `dvc checkout` or train again") from None
