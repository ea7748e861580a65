"""Settings that change in the course of a training."""

import math
from typing import Any

import torch
from torch import nn

from components.settings import Cosine, OptimizerSettings, Scheduled


def value_at(schedule: Scheduled, images_seen: int) -> float:
    """The setting's value after so many images."""
    if not isinstance(schedule, Cosine):
        return schedule
    share = min(1.0, images_seen / schedule.images)
    return schedule.end + (schedule.start - schedule.end) * (0.5 + 0.5 * math.cos(math.pi * share))


def schedule_optimizer(optimizer: Any, settings: OptimizerSettings, images_seen: int) -> None:
    """Sets the optimiser's learning rate and decay rates for the step after so many images."""
    warmed = min(1.0, (images_seen + 1) / settings.warmup) if settings.warmup else 1.0
    for group in optimizer.param_groups:
        group["lr"] = value_at(settings.lr, images_seen) * warmed
        group["betas"] = (settings.beta1, value_at(settings.beta2, images_seen))


def optimizer_for(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017, arXiv:1711.05101) for a network's weights."""
    betas = (settings.beta1, value_at(settings.beta2, 0))
    lr, decay = value_at(settings.lr, 0), settings.weight_decay
    return torch.optim.AdamW(network.parameters(), lr, betas=betas, weight_decay=decay, fused=True)
