"""Runs Lightning's loop over blocks of steps, in one process or several."""

import os
import signal
import threading
import warnings
from types import FrameType
from typing import Literal, cast

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from components.dataset import Split
from components.errors import InputError
from components.generative import GenerativeModel
from components.settings import FamilySettings, TrainCommonSettings
from components.training.batches import StepBlock, StepBlocks
from components.training.module import TrainingModule
from components.training.saving import Checkpoints

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, as shells tell it."""


def choose_precision(common: TrainCommonSettings) -> Literal["bf16-mixed", "32-true"]:
    """bf16 where the processor computes in it: elsewhere it is emulated, and slower than float32."""
    if common.precision != "auto":
        return common.precision
    if common.accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    able = torch.cpu.get_capabilities()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"


class PlainDDP(DDPStrategy):
    """Starts and joins the processes; gradients are averaged by `GenerativeModel.update`."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is: DistributedDataParallel's hooks know one backward pass per forward pass."""


class EndAtOnce(Callback):
    """SIGTERM ends the training at once.

    Lightning would finish the block, and end the process as if all were well.
    """

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, end_at_once if trainer.is_global_zero else _leave)


def end_at_once(_number: int, _frame: FrameType | None) -> None:
    """Handler of SIGTERM, for all of a process's time."""
    raise SystemExit(TERMINATED)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Handler of SIGTERM in the other processes.

    A status that told of a failure would make Lightning kill the first process, which has to tell MLflow
    how the run ended.
    """
    os._exit(0)


def make_trainer(common: TrainCommonSettings) -> Trainer:
    """Lightning's trainer without all that Vitrine does itself: logging, checkpoints, progress.

    Raises:
        InputError: this machine has not the devices that are asked for.
    """
    several = common.devices * common.nodes > 1
    try:
        return Trainer(
            max_epochs=1,
            accelerator=common.accelerator,
            devices=common.devices,
            num_nodes=common.nodes,
            strategy=PlainDDP() if several else "auto",
            precision=choose_precision(common),
            logger=False,
            callbacks=[EndAtOnce()],
            use_distributed_sampler=False,  # each process takes its rows by itself
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as error:
        raise InputError(
            f"params.yaml: train.common: accelerator '{common.accelerator}' with {common.devices} device(s) on "
            f"{common.nodes} node(s) cannot be used here: {error}"
        ) from None


class Blocks(LightningDataModule):
    """The blocks that are left of a training, made when all processes know where it goes on."""

    def __init__(
        self, split: Split, settings: FamilySettings, common: TrainCommonSettings, checkpoints: Checkpoints, steps: int
    ) -> None:
        super().__init__()
        self._split, self._settings, self._common = split, settings, common
        self._checkpoints, self._steps = checkpoints, steps

    def train_dataloader(self) -> DataLoader[StepBlock]:
        trainer = self.trainer
        assert trainer is not None
        if self._checkpoints.ended:
            return DataLoader(cast(StepBlocks, []), batch_size=None)
        blocks = StepBlocks(
            self._split,
            trainer.strategy.root_device,
            batch_size=self._settings.batch_size,
            steps=self._steps,
            block=self._common.log_every,
            seed=self._common.seed,
            sampler=self._common.sampler,
            first_step=self._checkpoints.first_step,
            rank=trainer.global_rank,
            world=trainer.world_size,
            keep=self._common.keep_images,
        )
        return DataLoader(blocks, batch_size=None)

    def transfer_batch_to_device(self, batch: StepBlock, device: torch.device, dataloader_idx: int) -> StepBlock:  # noqa: ARG002
        """A block lies where it belongs."""
        return batch


def fit(trainer: Trainer, model: GenerativeModel, blocks: Blocks) -> None:
    """Trains; the other processes end with this one, however it ends."""
    try:
        with warnings.catch_warnings():
            # A training that was killed after its last step has no block left.
            warnings.filterwarnings("ignore", r"Total length of `\w+` across ranks is zero")
            trainer.fit(TrainingModule(model), datamodule=blocks)
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)
        raise
    model.to(trainer.strategy.root_device)  # Lightning has brought it back to the CPU
