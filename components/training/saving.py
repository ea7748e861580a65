"""Keeps checkpoints in the course of a training, and gives a resumed one back what it had."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from components.dataset import DatasetInfo
from components.generative import BlockLog
from components.training.checkpoints import State
from components.training.module import model_of
from components.training.shelf import Shelf


class Checkpoints(Callback):
    """Writes checkpoints, and restores one before the first step.

    To be the last of the callbacks, so that what the others have made of a block is in its checkpoint.
    With several processes the first one reads and writes; the others are given what it has.

    Args:
        shelf: where they are kept; None in all processes but the first.
        state: what to go on from; None: from the start, or in a process that is not the first.
        every: images from one checkpoint to the next, rounded up to blocks.
        steps: optimiser steps in the whole training; after the last one a checkpoint is written in any case.
        info: of the prepared dataset: what a training that starts from a checkpoint must know of it.

    Attributes:
        first_step: where this training goes on; known once it has been started in all processes.
        ended: there is nothing to go on with: the checkpoint was written when the training had ended.
    """

    def __init__(self, shelf: Shelf | None, state: State | None, every: int, steps: int, info: DatasetInfo) -> None:
        self._shelf, self._state, self._every, self._steps, self._info = shelf, state, every, steps, info
        self.first_step = 0
        self.ended = False
        self._images_seen = 0

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """All processes start from what the first one has: the checkpoint, or its untrained weights."""
        state = self._state
        if trainer.world_size > 1:
            state = trainer.strategy.broadcast({"model": model_of(module).state_dict()} if state is None else state)
        if state is None:
            return
        model_of(module).load_state_dict(state["model"])
        if "step" not in state:
            return
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for callback in _callbacks(trainer):
            if type(callback).__name__ in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][type(callback).__name__])
        self.first_step, self._images_seen = state["step"], state["images"]
        self.ended = state["ended"] or state["step"] >= self._steps
        self._state = None  # as large as the model and its optimisers together

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        log: BlockLog = outputs["log"]
        due = log.images_seen // self._every > self._images_seen // self._every
        self._images_seen = log.images_seen
        ended = trainer.should_stop or log.last_step >= self._steps
        if self._shelf is not None and (due or ended):
            self._shelf.put(self._collected(trainer, module, log, ended))

    def _collected(self, trainer: Trainer, module: LightningModule, log: BlockLog, ended: bool) -> State:
        states = {type(callback).__name__: callback.state_dict() for callback in _callbacks(trainer)}
        assert self._shelf is not None
        return {
            "family": self._shelf.family,
            "attributes": {name: list(values) for name, values in self._info.attributes.items()},
            "step": log.last_step,
            "images": log.images_seen,
            "ended": ended,
            "model": model_of(module).state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "callbacks": {name: state for name, state in states.items() if state},
        }


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
