"""Samples judged in the course of a training: it ends when they get no better, and the best weights are kept."""

import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import mlflow
import numpy as np
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from components.dataset import DatasetInfo, Split, random_rows
from components.errors import InputError
from components.feature_cache import cached_features
from components.features import EffLite0, FeatureExtractor, extract
from components.generative import BlockLog, GenerativeModel
from components.metrics.frechet import frechet_distance
from components.sampling import Samples
from components.settings import QualitySettings
from components.training.batches import training_images
from components.training.module import model_of
from components.training.reporting import Recorder

METRIC = "val_fd_efflite0"
FEW = 50
"""Real images below which a Fréchet distance is little more than noise."""
FIT_IMAGES = 5000
"""Training images that `fit_sampling` is given before a check: enough to compare, a fraction of the time."""
IN_ONE_PASS = 50


@dataclass(frozen=True)
class Best:
    """The best check so far.

    Attributes:
        step: optimiser steps done by then.
        images_seen: by all processes until then.
        value: Fréchet distance.
    """

    step: int
    images_seen: int
    value: float


class QualityChecks(Callback):
    """Measures the Fréchet distance between samples and the split val, and keeps the best weights.

    Features are EfficientNet-Lite0's, as in `components.evaluate`, at a lower resolution and of fewer images.
    Real images, conditions and latents are the same at each check, so that two checks differ by
    the weights alone. Of so few images the distance comes out far too high, at each check about alike: good to compare
    checks of one training, not to be compared with evaluation.json. As the least of several noisy values
    the best one is also a little too low for the weights it belongs to. The split test, on which a model
    is judged, has no part in this.

    A check is due at the first block's end after each `every` images, and at the end of the training.
    With several processes the first one judges and tells the others.
    To be called before what writes checkpoints, which hold the best weights through `state_dict`.

    Args:
        settings: section `train.common.quality` of params.yaml.
        info: of the prepared dataset.
        train: split whose images `fit_sampling` is given.
        val: split with the real images.
        steps: optimiser steps in the whole training.
        seed: of the choice of real images, and of the latents.
        recorder: where the distances go.

    Attributes:
        best: None before the first check.
        seconds: spent on checks by this process.

    Raises:
        InputError: val has fewer than two images.
    """

    def __init__(
        self,
        settings: QualitySettings,
        info: DatasetInfo,
        train: Split,
        val: Split,
        *,
        steps: int,
        seed: int,
        recorder: Recorder,
    ) -> None:
        if len(val) < 2:
            raise InputError(
                "params.yaml: train.common.quality judges samples against the split val, which has "
                f"{len(val)} image(s); raise prepare.split.val, or set quality: null"
            )
        self.settings, self.info, self.train, self.val = settings, info, train, val
        self.steps, self.seed, self.recorder = steps, seed, recorder
        self.rows = random_rows(len(val), settings.samples, seed)
        self.best: Best | None = None
        self.seconds = 0.0
        self._best_state: dict[str, Tensor] = {}
        self._next_due, self._without_better = settings.every, 0
        self._extractor: FeatureExtractor | None = None

    @property
    def protocol(self) -> str:
        """What the distances depend on besides the model, in the form of `components.protocol`."""
        values = {
            "features": EffLite0.name,
            "resolution": self.settings.resolution,
            "split": "val",
            "samples": f"{len(self.rows)}x{self.settings.samples}",
            "seed": self.seed,
            "model": "ema-if-kept",
            "dataset": self.info.digest[:12],
        }
        return "; ".join(f"{name}={value}" for name, value in values.items())

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        if trainer.is_global_zero:
            print(f"quality: {METRIC} is measured with {self.protocol}", flush=True)
            if mlflow.active_run() is not None:
                mlflow.set_tag("vitrine.val_protocol", self.protocol)
        if len(self.rows) < FEW and trainer.is_global_zero:
            print(
                f"warning: the split val has {len(self.rows)} images: {METRIC} is little more than noise; raise "
                "prepare.split.val, or set train.common.quality: null"
            )
        # A training that was killed between this decision and its end must not go on.
        trainer.should_stop = trainer.should_stop or self._is_over

    @property
    def _is_over(self) -> bool:
        return self.settings.patience is not None and self._without_better >= self.settings.patience

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        log: BlockLog = outputs["log"]
        if log.images_seen < self._next_due and log.last_step < self.steps:
            return
        self._next_due = (log.images_seen // self.settings.every + 1) * self.settings.every
        model = model_of(module)
        started = time.monotonic()
        value = self._judge(model) if trainer.is_global_zero else math.nan
        value = trainer.strategy.broadcast(value)
        better = self._note(model, Best(log.last_step, log.images_seen, value))
        took = time.monotonic() - started
        self.seconds += took
        if trainer.is_global_zero:
            said = "best so far" if better else f"best was {self.best.value:.1f}" if self.best else "nothing to keep"
            print(f"quality: {METRIC} {value:.1f} after {log.images_seen} images, {said} ({took:.1f} s)", flush=True)
            if self._is_over and log.last_step < self.steps:
                print(f"quality: {self._without_better} checks in a row without a better one, the training ends")
        trainer.should_stop = trainer.should_stop or self._is_over

    def _note(self, model: GenerativeModel, found: Best) -> bool:
        """Records a check, and keeps the weights if it is the best one."""
        if math.isfinite(found.value):
            self.recorder.record(found.step, {METRIC: found.value})
        if not (math.isfinite(found.value) and (self.best is None or found.value < self.best.value)):
            self._without_better += 1
            return False
        self.best, self._without_better = found, 0
        self._best_state = {name: weight.detach().cpu().clone() for name, weight in model.sampling_state().items()}
        return True

    def _judge(self, model: GenerativeModel) -> float:
        """The Fréchet distance; infinite if a sample is not finite."""
        training = model.training
        model.eval()
        try:
            fit_rows = random_rows(len(self.train), FIT_IMAGES, self.seed)
            model.fit_sampling(partial(training_images, self.train, model.device, fit_rows))
            if self._extractor is None:
                self._extractor = EffLite0(self.settings.resolution).to(model.device)
            # As many as were asked for also where val has fewer: their part of the noise at least can be less.
            conditions_NA = self.val.conditions_NA[np.resize(self.rows, self.settings.samples)]
            samples = Samples(model, conditions_NA, self.info.image_shape, self.seed)
            fake_ND = self._features(self._extractor, samples, self.settings.samples, "samples")
            value = frechet_distance(self._real_features(self._extractor), fake_ND)
        finally:
            model.train(training)
        return math.inf if samples.nonfinite or not math.isfinite(value) else value

    def _real_features(self, extractor: FeatureExtractor) -> Tensor:
        """Of the chosen images of val, (N, D); computed once for all trainings on this dataset."""
        return cached_features(
            extractor,
            self.val,
            self.rows,
            dataset_digest=self.info.digest,
            name="val",
            batch_size=IN_ONE_PASS,
        ).features_ND

    @staticmethod
    def _features(extractor: FeatureExtractor, images: Any, count: int, label: str) -> Tensor:
        return extract(extractor, images, total=count, batch_size=IN_ONE_PASS, label=label).features_ND

    def finish(self, model: GenerativeModel) -> Best | None:
        """Puts the best weights into the model, for `sample` and `save_model`; `fit_sampling` should follow.

        Returns:
            Which those are; None if no check gave a finite value, and the last weights stay.
        """
        if self.best is None:
            print(f"warning: quality: no check gave a finite {METRIC}, so the last weights become the model")
            return None
        model.load_sampling_state({name: weight.to(model.device) for name, weight in self._best_state.items()})
        return self.best

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": None if self.best is None else asdict(self.best),
            "best_state": self._best_state,
            "next_due": self._next_due,
            "without_better": self._without_better,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = None if state_dict["best"] is None else Best(**state_dict["best"])
        self._best_state = dict(state_dict["best_state"])
        self._next_due, self._without_better = state_dict["next_due"], state_dict["without_better"]
