"""Tells while a training runs that it has gone wrong, why, and what to try: a diagnosis instead of a wasted night."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import mlflow
import torch
from lightning import Callback, LightningModule, Trainer

from components.errors import InputError
from components.generative import BlockLog, GenerativeModel
from components.settings import WatchdogSettings
from components.training.module import model_of
from components.training.reporting import Recorder

TAG = "vitrine.diagnosis"


class TrainingStoppedError(InputError):
    """A watchdog has ended the training: to run it again with the same settings would end the same."""


@dataclass(frozen=True)
class Watch:
    """A quantity that tells of one way in which trainings go wrong.

    Attributes:
        value: its mean over a block; None where the family does not tell it, or nothing could be measured.
        bad: on which side of the thresholds.
        diagnosis: what it means.
        advice: what to try, by the keys of params.yaml; {family} is the family's name.
    """

    value: Callable[[BlockLog], float | None]
    bad: Literal["above", "below"]
    diagnosis: str
    advice: str

    def past(self, value: float, threshold: float | None) -> bool:
        """Whether a value is on the bad side of a threshold; none has no bad side."""
        if threshold is None:
            return False
        return value > threshold if self.bad == "above" else value < threshold


def _mean(name: str) -> Callable[[BlockLog], float | None]:
    return lambda log: log.means().get(name)


def _diversity(log: BlockLog) -> float | None:
    """Of sums, not a mean of ratios: a batch with few pairs of one category says little and must not count much."""
    fake, real = (sum(value for _, value in log.values.get(f"diversity_{kind}", [])) for kind in ("fake", "real"))
    return fake / real if real > 0 else None


WATCHES = {
    "discriminator_accuracy": Watch(
        _mean("discriminator_accuracy"),
        "above",
        "the discriminator tells nearly every generated image from a real one, so that the generator learns little",
        "train.{family}: a lower discriminator_optimizer.lr, a stronger r1 or gradient penalty, augmentation before "
        "the discriminator, or a narrower discriminator; with few photos, augmentation first",
    ),
    "diversity": Watch(
        _diversity,
        "below",
        "mode collapse: the generated images of a category differ far less from each other than the real ones do",
        "train.{family}: lower learning rates, a stronger r1 (and r2), loss: relativistic, a larger batch_size; "
        "and look at the grids",
    ),
    "active_units": Watch(
        _mean("active_units"),
        "below",
        "posterior collapse: hardly any latent depends on the image, so that all samples of a category look alike",
        "train.{family}: a lower beta, a longer kl_warmup, a lower learning rate",
    ),
}
"""By the names of their settings. A family chooses by the scalars that it returns from `optimise`."""


@dataclass(frozen=True)
class _Judgement:
    """What a block says of a watched quantity.

    Attributes:
        problem: in words; of the threshold `stop` if that was passed.
    """

    warned: bool
    stopped: bool
    problem: str


class Watchdogs(Callback):
    """Looks at each block's log and at the weights, before anything is made of them.

    To be the first of the callbacks, and to stand before what writes checkpoints: what is raised here comes
    before a checkpoint of a broken state is written, so that the last one is a good one.

    - NaN or infinity in a logged scalar or in a weight ends the training at once.
    - Each of WATCHES that the family tells is recorded as `watch_<name>`, with `warning_<name>`: 1 while it has been
      past its threshold `warn` over `patience` images without a break, else 0. The first time, a line says what it
      means and what to try. Past the threshold `stop` for as long, the training ends.

    What ends a training is in the MLflow run's tag `vitrine.diagnosis`; the run fails. The counters
    are in `state_dict`: a resumed training warns and stops where an uninterrupted one would.
    With several processes the log is the same in all of them, and so is what they decide.

    Args:
        settings: section `train.common.watchdogs` of params.yaml.
        family: the model's name, for the advice.
        recorder: where values and warnings go.
    """

    def __init__(self, settings: WatchdogSettings, family: str, recorder: Recorder) -> None:
        self.settings, self.family, self.recorder = settings, family, recorder
        self.images_seen = 0
        self.past: dict[str, int] = {}  # by "<watch>.<threshold>": images without a break
        self.told: list[str] = []
        self._newest: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        """Judges a block.

        Raises:
            TrainingStoppedError: something is not finite, or was past a threshold for too long.
        """
        log: BlockLog = outputs["log"]
        if problem := _nonfinite_scalar(log) or _nonfinite_weight(log, model_of(module)):
            self._stop(log, problem, self._advice_for_divergence())
        found = {name: value for name, watch in WATCHES.items() if (value := watch.value(log)) is not None}
        judged = {name: self._judge(name, value, log) for name, value in found.items()}
        self._newest = found
        self.images_seen = log.images_seen
        # In one call, for each asks the tracking server.
        values = {f"watch_{name}": value for name, value in found.items()}
        values |= {f"warning_{name}": float(judgement.warned) for name, judgement in judged.items()}
        if values:
            self.recorder.record(log.last_step, values)
        for name, judgement in judged.items():
            advice = WATCHES[name].advice.format(family=self.family)
            if judgement.stopped:
                self._stop(log, judgement.problem, advice)
            if judgement.warned and name not in self.told:
                self.told.append(name)
                if trainer.is_global_zero:
                    print(f"warning: {self.family}: {judgement.problem}. Try {advice}", flush=True)

    def on_train_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Tells of what is bad at the end, though not for long enough: a training may be shorter than `patience`."""
        for name, value in self._newest.items():
            watch, thresholds = WATCHES[name], getattr(self.settings, name)
            if trainer.is_global_zero and name not in self.told and watch.past(value, thresholds.warn):
                advice = watch.advice.format(family=self.family)
                print(
                    f"warning: {self.family}: the training ends with {name} at {value:.3g}, {watch.bad} "
                    f"{thresholds.warn}: {watch.diagnosis}. Train for longer, or try {advice}",
                    flush=True,
                )

    def _judge(self, name: str, value: float, log: BlockLog) -> _Judgement:
        """Counts the block for or against a watched quantity."""
        watch, thresholds = WATCHES[name], getattr(self.settings, name)
        warned, stopped = (
            self._held(f"{name}.{level}", watch.past(value, getattr(thresholds, level)), log)
            for level in ("warn", "stop")
        )
        problem = (
            f"{watch.diagnosis} ({name} is {value:.3g} at step {log.last_step}, and was {watch.bad} "
            f"{thresholds.stop if stopped else thresholds.warn} over the last {self.settings.patience} images and more)"
        )
        return _Judgement(warned, stopped, problem)

    def _held(self, counter: str, past: bool, log: BlockLog) -> bool:
        """Whether a quantity has been past a threshold for long enough, this block counted."""
        before = self.past.get(counter, 0)
        self.past[counter] = before + log.images_seen - self.images_seen if past else 0
        return self.past[counter] >= self.settings.patience

    def _stop(self, log: BlockLog, problem: str, advice: str) -> None:
        """Ends the training, with the reason in the MLflow run of the process that has one."""
        diagnosis = f"{problem}. Try {advice}"
        if (run := mlflow.active_run()) is not None:
            mlflow.MlflowClient().set_tag(run.info.run_id, TAG, diagnosis)
        raise TrainingStoppedError(
            f"train: '{self.family}' was stopped after {log.images_seen} images: {diagnosis} "
            "(thresholds: train.common.watchdogs)"
        )

    def _advice_for_divergence(self) -> str:
        return (
            f"train.{self.family}: a lower lr of the optimisers, a warmup, gradient_clip: 1.0; or "
            "train.common.precision: 32-true if it was another"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"images_seen": self.images_seen, "past": dict(self.past), "told": list(self.told)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images_seen = state_dict["images_seen"]
        self.past, self.told = dict(state_dict["past"]), list(state_dict["told"])


def _nonfinite_scalar(log: BlockLog) -> str | None:
    """The earliest scalar of a block that is NaN or infinite; of one step, the one that was told first."""
    found = (
        (step, name, value) for name, pairs in log.values.items() for step, value in pairs if not math.isfinite(value)
    )
    first = min(found, key=lambda entry: entry[0], default=None)
    return None if first is None else f"{first[1]} is {first[2]} at step {first[0] + 1}"


@torch.no_grad()
def _nonfinite_weight(log: BlockLog, model: GenerativeModel) -> str | None:
    """The first weight or buffer that holds NaN or infinity; a loss shows it a step later, after a checkpoint.

    What `fit_sampling` sets is left out: infinity may have a meaning there. The device is asked once for all.
    """
    named = [
        (name, tensor.detach())
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
        if tensor.is_floating_point() and tensor.numel() and not name.startswith(model.refitted)
    ]
    if not named:
        return None
    # A sum is finite only if all its terms are. It is the cheapest question; it may overflow, so that it is no answer.
    if torch.stack([tensor.sum().float() for _, tensor in named]).isfinite().all():
        return None
    broken = next((name for name, tensor in named if not tensor.isfinite().all()), None)
    return None if broken is None else f"the weight {broken} holds NaN or infinity after step {log.last_step}"
