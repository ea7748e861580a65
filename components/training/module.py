"""A generative model as Lightning trains it. Models themselves know nothing of Lightning: serving does without it."""

from typing import Any

from lightning import LightningModule
from torch.optim import Optimizer

from components.generative import BlockLog, GenerativeModel
from components.training.batches import StepBlock


class TrainingModule(LightningModule):
    """Hands blocks of steps to a model, with its optimisers.

    Attributes:
        model: what is trained.
    """

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model
        self.automatic_optimization = False

    def configure_optimizers(self) -> list[Optimizer]:
        return self.model.configure_optimizers()

    def training_step(self, block: StepBlock, _: int) -> dict[str, BlockLog]:
        found: Any = self.optimizers(use_pl_optimizer=False)
        optimizers = found if isinstance(found, list) else [found]
        return {"log": self.model.train_block(block, optimizers)}


def model_of(module: LightningModule) -> GenerativeModel:
    """What a callback is given the module for."""
    assert isinstance(module, TrainingModule)
    return module.model
