"""Checks params.yaml whole, the families' entries included, before any work."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.metrics.names import known_metrics
from components.models import available_models, family_settings, load_family
from components.networks.settings import UnfitError
from components.settings import (
    PARAMS_FILE,
    REGISTRY,
    FamilySettings,
    PrepareSettings,
    Settings,
    TrainCommonSettings,
    load_settings,
)
from components.stage import explained_errors

COLORS = 3
"""Channels of the images that networks are tried with; whether the photos have colours, only the data tells."""
VALUES = 2
"""Of each condition, likewise."""
RANDOM = ("normal_", "uniform_")
"""Methods of a tensor, and functions of torch.nn.init, that fill it with random numbers."""


def check_params(path: Path = PARAMS_FILE) -> Settings:
    """Reads params.yaml and checks it, every family's settings included.

    Raises:
        InputError: something in it cannot be used; all of it is named.
    """
    settings = load_settings(path)
    problems = [
        f"{path}: {problem}" for problem in (*_unmatched(settings), *_empty_splits(settings), *_unmeasured(settings))
    ]
    for family in settings.train.families:
        try:
            if family in settings.train.models:
                trained_settings(family, settings, path)
            else:
                family_settings(family, settings.train.families[family], where=str(path))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return settings


def trained_settings(family: str, settings: Settings, path: Path = PARAMS_FILE) -> FamilySettings:
    """A family's settings, checked together with all that its training depends on.

    Args:
        family: one that params.yaml has an entry for.
        path: of params.yaml.

    Raises:
        InputError: a key or a value cannot be used, the batch cannot be divided, the networks do not fit images
            of `prepare.size`, or there are no weights at the path of `init_from`; all of it is named.
    """
    found = family_settings(family, settings.train.families[family], where=str(path))
    checks: list[Callable[[], None]] = [
        lambda: check_batch(family, found, settings.train.common),
        lambda: _check_networks(family, found, settings.prepare),
        lambda: _check_source(family, found),
    ]
    problems = []
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return found


def check_batch(family: str, settings: FamilySettings, common: TrainCommonSettings) -> None:
    """Asks that the batch can be divided among processes and micro-batches.

    Raises:
        InputError: it cannot.
    """
    parts = common.devices * common.nodes * settings.accumulate
    if settings.batch_size % parts:
        raise InputError(
            f"train.{family}.batch_size is {settings.batch_size}, which cannot be divided by {parts}: "
            f"train.common.devices {common.devices} * nodes {common.nodes} * train.{family}.accumulate "
            f"{settings.accumulate}; give a multiple of {parts}"
        )


def _check_networks(family: str, settings: FamilySettings, prepare: PrepareSettings) -> None:
    """Puts the networks together, without memory for their weights, and without values."""
    # Here, since what imports this module need not check anything, and torch takes seconds.
    import torch
    from torch.overrides import TorchFunctionMode

    class WithoutValues(TorchFunctionMode):
        """Draws no random numbers: on the device meta that would load torch's compiler, which takes another second."""

        def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in RANDOM:
                return (*args, *(kwargs or {}).values())[0]
            return func(*args, **(kwargs or {}))

    shape = (COLORS, prepare.size, prepare.size)
    try:
        with torch.device("meta"), WithoutValues():
            load_family(family).build(settings, shape, (VALUES,) * len(prepare.conditions))
    except UnfitError as error:
        raise InputError(f"train.{family}.{error}; prepare.size is {prepare.size}") from None


def _check_source(family: str, settings: FamilySettings) -> None:
    """Looks for a file or folder to start from; the registry is asked when the training begins."""
    if settings.init_from is None or settings.init_from.source.startswith(REGISTRY):
        return
    if not Path(settings.init_from.source).exists():
        raise InputError(
            f"train.{family}.init_from.source: found '{settings.init_from.source}', there is no such file or folder; "
            f"give {REGISTRY}NAME/VERSION, {REGISTRY}NAME@ALIAS, a folder with a model, or a checkpoint"
        )


def _unmatched(settings: Settings) -> Iterator[str]:
    """Names that one section has and another, which should have them, has not."""
    train, entries = settings.train, sorted(settings.train.families)
    for family in train.models:
        if family not in entries:
            yield (
                f"train.models: found '{family}', train has entries for {entries}; add one, files exist for "
                f"{available_models()}"
            )
    if len(set(train.models)) < len(train.models):
        yield f"train.models: found {train.models}, a model is named twice"
    for family in entries:
        if family not in settings.gate:
            yield f"gate.{family}: missing; a model without a policy can never pass"
    for family in settings.gate:
        if family not in entries:
            yield f"gate.{family}: no such model under train; it has {entries}, files exist for {available_models()}"
    for name in train.common.augment.flip_not:
        if name not in settings.prepare.conditions:
            yield (
                f"train.common.augment.flip_not.{name}: no such condition; prepare.conditions has "
                f"{settings.prepare.conditions}"
            )


def _unmeasured(settings: Settings) -> Iterator[str]:
    """Metrics that a policy asks for and no evaluation measures: the gate would fail after all the work."""
    known = known_metrics(settings.evaluate.extractor, settings.prepare.conditions)
    for family, policy in settings.gate.items():
        limits = [check.metric for check in (*policy.thresholds, *policy.memorisation)]
        compared = [check.metric for check in policy.champion]
        asked = {
            "over_all": [*policy.required, *limits, *compared],
            "by_category": [check.metric for check in policy.by_category],
        }
        for place, names in asked.items():
            allowed = getattr(known, place)
            for name in dict.fromkeys(names):
                if name not in allowed:
                    where = "by_category" if place == "by_category" else "a check over all images"
                    found = f"gate.{family}: {where} asks for '{name}', which is not measured"
                    yield (
                        f"{found} with evaluate.extractor {settings.evaluate.extractor} and prepare.conditions "
                        f"{settings.prepare.conditions}; measured are {list(allowed) or 'no categories'}"
                    )


def _empty_splits(settings: Settings) -> Iterator[str]:
    """Splits that get no images although something is measured on them."""
    split = settings.prepare.split
    if settings.train.common.quality is not None and not split.val:
        yield (
            "prepare.split.val: found 0, but train.common.quality judges samples against the split val; give it a "
            "share, or make train.common.quality null"
        )
    if not getattr(split, settings.evaluate.split):
        yield (
            f"prepare.split.{settings.evaluate.split}: found 0, but evaluate.split is '{settings.evaluate.split}'; "
            "give it a share"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    with explained_errors():
        check_params(parser.parse_args(argv).params)


if __name__ == "__main__":
    main()
