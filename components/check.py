"""Checks params.yaml whole, the families' entries included, before any work."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from components.errors import InputError
from components.models import available_models, family_settings
from components.settings import PARAMS_FILE, Settings, load_settings
from components.stage import explained_errors


def check_params(path: Path = PARAMS_FILE) -> Settings:
    """Reads params.yaml and checks it, every family's settings included.

    Raises:
        InputError: something in it cannot be used; all of it is named.
    """
    settings = load_settings(path)
    problems = []
    for family, raw in settings.train.families.items():
        try:
            family_settings(family, raw, where=str(path))
        except InputError as error:
            problems.append(str(error))
        if not settings.gate.get(family):
            problems.append(f"{path}: gate.{family}: missing or empty; a model without a policy can never pass")
    problems += [
        f"{path}: train.models: found '{family}', train has entries for {sorted(settings.train.families)}; "
        f"add one, files exist for {available_models()}"
        for family in settings.train.models
        if family not in settings.train.families
    ]
    if len(set(settings.train.models)) < len(settings.train.models):
        problems.append(f"{path}: train.models: found {settings.train.models}, a model is named twice")
    problems += [
        f"{path}: gate.{family}: no such model under train; it has {sorted(settings.train.families)}, "
        f"files exist for {available_models()}"
        for family in settings.gate
        if family not in settings.train.families
    ]
    problems += [
        f"{path}: train.common.augment.flip_not.{name}: no such condition; prepare.conditions has "
        f"{settings.prepare.conditions}"
        for name in settings.train.common.augment.flip_not
        if name not in settings.prepare.conditions
    ]
    if problems:
        raise InputError("\n".join(problems))
    return settings


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    with explained_errors():
        check_params(parser.parse_args(argv).params)


if __name__ == "__main__":
    main()
