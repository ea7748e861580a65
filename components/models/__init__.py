"""The model families: one file each, whose name is the key in params.yaml and the item of train.models.

A family's file defines `Settings` (a `components.settings.FamilySettings`) and
`build(settings, image_shape, cardinalities) -> GenerativeModel`.
"""

import json
import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

from components.errors import InputError
from components.settings import FamilySettings, check


def available_models() -> list[str]:
    """Names of the families, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_family(name: str) -> ModuleType:
    """Imports a family's file; a broken one fails with its own traceback.

    Raises:
        InputError: there is no such file.
    """
    if name not in available_models():
        raise InputError(f"params.yaml: model '{name}' is unknown; choose one of {available_models()}")
    return import_module(f"{__name__}.{name}")


def family_settings(name: str, raw: Any, where: str = "params.yaml") -> FamilySettings:
    """Checks a family's entry of params.yaml.

    Raises:
        InputError: the family or a key is unknown, or a value has the wrong type or range.
    """
    settings: FamilySettings = check(load_family(name).Settings, json.dumps(raw), f"{where}: train.{name}")
    return settings
