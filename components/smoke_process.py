"""Loads a packaged model and asks it for images: a process of `components.smoke`.

Run by its path, in Python's isolated mode: it imports nothing of the checkout, so that `components` comes
from the package or not at all.

Usage: python -I -B smoke_process.py FOLDER REQUESTS ANSWER
"""

import base64
import builtins
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

FOUND: set[str] = set()
"""Modules that the package's code has imported, by their first name."""


def note_imports() -> None:
    """Has Python tell, from here on, what modules of `components` import."""
    plain = builtins.__import__

    def noting(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        importer = str((globals or {}).get("__name__", ""))
        # What C code imports comes with this function's own globals.
        if level == 0 and importer.partition(".")[0] == "components" and importer != __name__:
            FOUND.add(name.partition(".")[0])
        return plain(name, globals, locals, fromlist, level)

    builtins.__import__ = noting


def distributions() -> dict[str, list[str]]:
    """Per imported module, apart from Python's own and the package's, the distributions that bring it."""
    brought = importlib.metadata.packages_distributions()
    others = FOUND - set(sys.stdlib_module_names) - {"components"}
    return {name: sorted(set(brought.get(name, []))) for name in sorted(others)}


def files() -> dict[str, str]:
    """Where each module of `components` came from."""
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "components"}
    return {name: module.__file__ for name, module in sorted(modules.items()) if module.__file__ is not None}


def kinds(error: BaseException) -> list[str]:
    """Classes of an error, and of those that it was raised from: MLflow wraps what a model's code raises."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return names if error.__cause__ is None else names + kinds(error.__cause__)


def ask(folder: str, calls: list[list[dict[str, Any]]], answer: dict[str, Any]) -> None:
    """Loads the model and answers the calls, one after the other; `answer` fills up on the way."""
    import mlflow.pyfunc
    import pandas as pd

    answer["stage"] = "load"
    model = mlflow.pyfunc.load_model(folder)
    answer["stage"] = "predict"
    answer["calls"] = [_rows(model.predict(pd.DataFrame(rows))) for rows in calls]
    answer["stage"] = "done"


def _rows(frame: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return [row | {"png": base64.b64encode(row["png"]).decode()} for row in rows]


def main(folder: str, requests: str, target: str) -> None:
    answer: dict[str, Any] = {"stage": "start"}
    note_imports()
    try:
        ask(folder, json.loads(Path(requests).read_text(encoding="utf-8")), answer)
    except Exception as error:
        answer["error"] = {"type": kinds(error), "message": str(error)}
    answer["files"] = files()
    answer["imports"] = distributions()
    temporary = Path(f"{target}.part")
    temporary.write_text(json.dumps(answer, default=str), encoding="utf-8")
    temporary.replace(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
