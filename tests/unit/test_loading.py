"""What a process does not load: each of these takes a second or more, and a retraining starts dozens of processes."""

import subprocess
import sys

import pytest

from tests.project import SOURCE

COMPILER = {"torch._dynamo", "torch._inductor"}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("flows.run_stage", {"mlflow", "torch"}),
        ("flows.__main__", {"mlflow", "prefect", *COMPILER}),
        ("components.cli", {"torch", "prefect"}),
        ("components.evaluate, components.models.gan, components.serving", {"lightning", "torchmetrics", *COMPILER}),
        ("components.registry.release", {"torch", "prefect"}),
    ],
)
def test_nothing_is_loaded_without_need(modules: str, absent: set[str]) -> None:
    code = f"import {modules}, sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, check=True).stdout
    assert not absent & set(shown.split())
