"""Settings that change in the course of a training."""

import math
from typing import Any

import torch
from torch import nn

from components.generative import Step
from components.settings import Cosine, OptimizerSettings, Scheduled


def value_at(schedule: Scheduled, progress: float) -> float:
    """The setting's value when so much of the training is done, from 0 to 1.

    Half a cosine: Loshchilov and Hutter, 2016, arXiv:1608.03983, without restarts.
    """
    if not isinstance(schedule, Cosine):
        return schedule
    done = min(1.0, progress / schedule.share)
    return schedule.end + (schedule.start - schedule.end) * (0.5 + 0.5 * math.cos(math.pi * done))


def schedule_optimizer(optimizer: Any, settings: OptimizerSettings, step: Step) -> None:
    """Sets the optimiser's learning rate and decay rates for a step.

    The warm-up's first step is a small one, not one of length 0.
    """
    warmed = min(1.0, (step.images_seen + 1) / settings.warmup) if settings.warmup else 1.0
    for group in optimizer.param_groups:
        group["lr"] = value_at(settings.lr, step.progress) * warmed
        group["betas"] = (settings.beta1, value_at(settings.beta2, step.progress))


def optimizer_for(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017, arXiv:1711.05101) for a network's weights.

    The decay holds for what is multiplied with activations, the weights of convolutions and linear
    layers. Biases, gains of normalisations and the vectors of embeddings are spared, as is usual since
    He et al., 2018, arXiv:1812.01187: a rare category's vector, say, would shrink at each
    step while it is learned at few.
    """
    betas = (settings.beta1, value_at(settings.beta2, 0))
    decayed, spared = _by_decay(network)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, value_at(settings.lr, 0), betas=betas, fused=True)


def _by_decay(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The network's weights that decay, and those that do not, each in the network's order."""
    embeddings = (module for module in network.modules() if isinstance(module, nn.Embedding))
    vectors = {id(parameter) for module in embeddings for parameter in module.parameters()}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in network.parameters():
        spare = parameter.ndim < 2 or id(parameter) in vectors
        (spared if spare else decayed).append(parameter)
    return decayed, spared
