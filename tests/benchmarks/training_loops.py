"""Two other ways of training Vitrine's networks on its losses: a bare loop, and what one would write with Lightning.

The bare loop has nothing but the step: images on the device, rows picked there, fused optimisers, the
averages moved at once. No schedules, no seeds by step, no scalars, no micro-batches. Losses and
penalties are the same functions as Vitrine's.
"""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from components import generative
from components.adversarial.judging import judge
from components.adversarial.penalties import due_penalties
from components.dataset import Split, load_info, load_split
from components.generative import GenerativeModel
from components.models.gan import Gan
from components.models.vae import Vae
from components.settings import FamilySettings, TrainCommonSettings
from components.training.draws import whole_batch
from components.training.fitting import choose_precision
from components.training.schedules import optimizer_for, value_at
from components.variational.laplacian import laplacian_loss
from components.variational.likelihood import gaussian_kl, optimal_sigma_nll, reparametrised

PNG_IMAGES = 6000


@dataclass(frozen=True)
class Task:
    """What is trained in each way.

    Attributes:
        steps: optimiser steps that are timed, a multiple of `common.log_every`.
    """

    family: str
    settings: FamilySettings
    common: TrainCommonSettings
    prepared: Path
    steps: int
    pngs: Path

    def split(self) -> Split:
        return load_split(self.prepared, "train")

    def model(self) -> GenerativeModel:
        torch.manual_seed(self.common.seed)
        return generative.build(self.family, self.settings, load_info(self.prepared))


Step = Callable[[Tensor, Tensor, int], None]
"""Float images (N, C, H, W) in [-1, 1], conditions (N, A) and the step's number; moves the weights."""


def discriminator_objective(model: Gan, reals: Tensor, fakes: Tensor, conditions: Tensor, number: int) -> Tensor:
    settings, draws = model.settings, whole_batch(number, len(reals), reals.device)
    if model.shown is not None:
        with torch.no_grad():
            reals, fakes = model.shown(reals, draws, "r"), model.shown(fakes, draws, "f")
    due = due_penalties(settings.penalties, generative.Step(number, 0, 0.0, ()))
    judged = judge(model.discriminator, reals, fakes, conditions, due, draws)
    return model.discriminator_loss(judged.logits_real_N, judged.logits_fake_N) + judged.weighted


def generator_objective(model: Gan, reals: Tensor, fakes: Tensor, conditions: Tensor, number: int) -> Tensor:
    draws = whole_batch(number, len(reals), reals.device)
    shown = fakes if model.shown is None else model.shown(fakes, draws, "g")
    logits_fake = model.discriminator(shown, conditions).float()
    logits_real = logits_fake.detach()
    if model.settings.loss == "relativistic":
        with torch.no_grad():
            shown = reals if model.shown is None else model.shown(reals, draws, "rg")
            logits_real = model.discriminator(shown, conditions).float()
    return model.generator_loss(logits_real, logits_fake)


def vae_objective(model: Vae, images: Tensor, conditions: Tensor, number: int) -> Tensor:
    settings = model.settings
    assert not settings.perceptual
    mean, log_variance = model.networks.encoder(images, conditions)
    z = reparametrised(mean, log_variance, torch.randn_like(mean))
    reconstructions = model.networks.decoder(z, conditions).float()
    nll, _ = optimal_sigma_nll(images, reconstructions)
    kl = gaussian_kl(mean, log_variance, *model.networks.prior(conditions))
    loss = nll.mean() + model.beta(number * settings.batch_size) * kl.mean()
    if settings.laplacian:
        loss = loss + settings.laplacian * laplacian_loss(images, reconstructions).mean()
    return loss


def bare_loop(
    model: GenerativeModel, settings: FamilySettings, common: TrainCommonSettings, split: Split, device: torch.device
) -> Callable[[int], None]:
    """Readies a model that is on the device; what is returned does so many steps."""
    images = torch.from_numpy(np.concatenate(split.shards)).to(device)
    conditions = torch.from_numpy(split.conditions_NA).to(device)
    step = bare_gan(model) if isinstance(model, Gan) else bare_vae(model)
    done = 0

    def precision() -> AbstractContextManager[Any]:
        mixed = choose_precision(common) == "bf16-mixed"
        return torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()

    def run(steps: int) -> None:
        nonlocal done
        with precision():
            for _ in range(steps):
                rows = torch.randint(len(images), (settings.batch_size,), device=device)
                step(images[rows].float().div_(127.5).sub_(1), conditions[rows], done)
                done += 1

    return run


def bare_gan(model: Gan) -> Step:
    settings, generator, discriminator = model.settings, model.generator, model.discriminator
    of_generator = optimizer_for(generator, settings.generator_optimizer)
    of_discriminator = optimizer_for(discriminator, settings.discriminator_optimizer)
    average = averaging(model.ema.module, generator, settings)

    def step(reals: Tensor, conditions: Tensor, number: int) -> None:
        fakes = generator(torch.randn(len(reals), settings.latent_dim, device=reals.device), conditions)
        of_discriminator.zero_grad()
        discriminator_objective(model, reals, fakes.detach(), conditions, number).backward()
        move(of_discriminator, settings)
        if (number + 1) % settings.discriminator_steps == 0:
            discriminator.requires_grad_(False)
            of_generator.zero_grad()
            generator_objective(model, reals, fakes, conditions, number).backward()
            move(of_generator, settings)
            discriminator.requires_grad_(True)
        average()

    return step


def bare_vae(model: GenerativeModel) -> Step:
    assert isinstance(model, Vae)
    optimizer = optimizer_for(model.networks, model.settings.optimizer)
    average = averaging(model.ema.module, model.networks, model.settings)

    def step(images: Tensor, conditions: Tensor, number: int) -> None:
        optimizer.zero_grad()
        vae_objective(model, images, conditions, number).backward()
        move(optimizer, model.settings)
        average()

    return step


def move(optimizer: torch.optim.Optimizer, settings: FamilySettings) -> None:
    if settings.gradient_clip is not None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(weights, settings.gradient_clip)
    optimizer.step()


def averaging(averaged: nn.Module, network: nn.Module, settings: FamilySettings) -> Callable[[], None]:
    share = share_of_new(settings)
    mine, theirs = ([tensor.detach() for tensor in chain(n.parameters(), n.buffers())] for n in (averaged, network))
    floats = [index for index, tensor in enumerate(mine) if tensor.is_floating_point()]
    mine, theirs = [mine[index] for index in floats], [theirs[index] for index in floats]
    return lambda: torch._foreach_lerp_(mine, theirs, share)


def share_of_new(settings: FamilySettings) -> float:
    half_life = value_at(settings.ema_half_life, 0)
    return 1.0 - 0.5 ** (settings.batch_size / half_life) if half_life else 1.0


def write_pngs(split: Split, folder: Path) -> Path:
    """The first images as PNG files and a table of their conditions; for peers as one array beside them."""
    images = np.concatenate([shard[:PNG_IMAGES] for shard in split.shards])[:PNG_IMAGES]
    for number, image in enumerate(images):
        Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)).save(folder / f"{number:06}.png")
    np.save(folder / "conditions.npy", split.conditions_NA[: len(images)])
    np.save(folder / "images.npy", images)
    return folder


class Pngs(Dataset[tuple[Tensor, Tensor]]):
    """One PNG at a time, decoded and made a float image as it is asked for."""

    def __init__(self, folder: Path, count: int) -> None:
        self.paths = sorted(folder.glob("*.png"))
        self.conditions: NDArray[np.int64] = np.load(folder / "conditions.npy")
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index %= len(self.paths)
        with Image.open(self.paths[index]) as image:
            pixels = torch.from_numpy(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1).copy())
        return pixels.float() / 127.5 - 1, torch.from_numpy(self.conditions[index])


class Ordinary(LightningModule):
    """Vitrine's networks as one would train them with Lightning: a batch per call, scalars logged in each."""

    def __init__(self, model: GenerativeModel, on_step: Callable[[int], None]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.on_step, self.number = model, on_step, 0
        trained = model.generator if isinstance(model, Gan) else model.networks
        decay = 1.0 - share_of_new(model.settings)
        assert isinstance(trained, nn.Module)
        self.average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.trained = trained

    def configure_optimizers(self) -> Any:
        if isinstance(self.model, Gan):
            settings = self.model.settings
            pairs = [
                (self.model.generator, settings.generator_optimizer),
                (self.model.discriminator, settings.discriminator_optimizer),
            ]
        else:
            assert isinstance(self.model, Vae)
            pairs = [(self.model.networks, self.model.settings.optimizer)]
        return [
            torch.optim.AdamW(
                network.parameters(),
                value_at(own.lr, 0),
                betas=(own.beta1, value_at(own.beta2, 0)),
                weight_decay=own.weight_decay,
            )
            for network, own in pairs
        ]

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.on_step(self.number)
        images, conditions = batch
        if isinstance(self.model, Gan):
            self._gan_step(self.model, images, conditions)
        else:
            assert isinstance(self.model, Vae)
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            loss = vae_objective(self.model, images, conditions, self.number)
            self.manual_backward(loss)
            optimizer.step()
            self.log("loss", loss, prog_bar=True)
        self.average.update_parameters(self.trained)
        self.number += 1

    def _gan_step(self, model: Gan, reals: Tensor, conditions: Tensor) -> None:
        optimizers: Any = self.optimizers()
        of_generator, of_discriminator = optimizers
        z = torch.randn(len(reals), model.settings.latent_dim, device=reals.device)
        fakes = model.generator(z, conditions)
        self.toggle_optimizer(of_discriminator)
        of_discriminator.zero_grad()
        loss = discriminator_objective(model, reals, fakes.detach(), conditions, self.number)
        self.manual_backward(loss)
        of_discriminator.step()
        self.untoggle_optimizer(of_discriminator)
        self.log("loss_discriminator", loss, prog_bar=True)
        if (self.number + 1) % model.settings.discriminator_steps == 0:
            self.toggle_optimizer(of_generator)
            of_generator.zero_grad()
            loss = generator_objective(model, reals, fakes, conditions, self.number)
            self.manual_backward(loss)
            of_generator.step()
            self.untoggle_optimizer(of_generator)
            self.log("loss_generator", loss, prog_bar=True)


class InSteps(Callback):
    """Ends a training after so many steps: Lightning counts each optimiser's."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        assert isinstance(module, Ordinary)
        trainer.should_stop = module.number >= self.steps


def ordinary_training(model: GenerativeModel, task: Task, on_step: Callable[[int], None], workers: int) -> None:
    """Trains for one block to warm up and `steps` more; tells of each step's beginning."""
    steps, batch = task.steps + task.common.log_every, task.settings.batch_size
    images = Pngs(task.pngs, steps * batch)
    loader = DataLoader(
        images, batch_size=batch, shuffle=True, num_workers=workers, pin_memory=torch.cuda.is_available()
    )
    trainer = Trainer(
        max_steps=-1,
        max_epochs=1,
        accelerator=task.common.accelerator,
        devices=1,
        precision=choose_precision(task.common),
        logger=CSVLogger("logs"),
        callbacks=[InSteps(steps)],
    )
    # Its progress bar is a part of the ordinary way, but not of this benchmark's output.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        trainer.fit(Ordinary(model, on_step), loader)
