"""Copies of the project for tests that run it as its users do."""

import os
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SOURCE = Path(__file__).resolve().parent.parent

LAX: dict[str, Any] = {
    "required": [],
    "thresholds": [{"metric": "fd_efflite0", "at_most": 1e6}],
    "by_category": [],
    "memorisation": [{"metric": "duplicates", "at_most": 2.0}],
    "champion": [{"metric": "fd_efflite0", "direction": "minimize", "better_by": 0.0}],
    "first_model": "promote",
}
"""A policy that any first model passes."""

TINY: dict[str, Any] = {
    "data.subset": 800,
    "data.fashion_mnist.origin": "folder",
    "train.gan.images": 640,
    # Else the average that is served would still be next to the start, where all images are one grey.
    "train.gan.ema_half_life": 64,
    "train.gan.generator.width": 16,
    "train.gan.discriminator.width": 16,
    "train.vae.images": 1920,
    "train.vae.autoencoder.width": 16,
    "train.vae.density.components": 2,
    "train.common.quality.samples": 20,
    "train.common.quality.resolution": 32,
    "train.common.log_every": 5,
    "train.common.grids": 2,
    "evaluate.resolution": 32,
    "evaluate.samples": 60,
    "evaluate.per_category": 8,
    "evaluate.train_photos": 200,
    "evaluate.copying.samples": 40,
    "gate.gan": LAX,
    "gate.vae": LAX,
    "flow.retry_delay": 1,
}
"""Settings under which the whole pipeline takes a minute. The gates let everything pass."""


def copy_project(target: Path, fashion_mnist: Path) -> Path:
    """A git repository with the project's files and tiny settings, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=SOURCE,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in listed.split("\0"):
        if name and name != "dvc.lock" and (SOURCE / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((SOURCE / name).read_bytes())
    set_params(target, {**TINY, "data.fashion_mnist.folder": str(fashion_mnist)})
    git(target, "init", "--quiet")
    commit(target, "Start")
    return target


def set_params(project: Path, changes: Mapping[str, Any]) -> None:
    """Sets keys of params.yaml, dots going deeper."""
    yaml = YAML()
    path = project / "params.yaml"
    content = yaml.load(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = deepcopy(value)  # equal values shall not become one, by YAML's aliases
    with path.open("w") as file:
        yaml.dump(content, file)


def git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@vitrine.example"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=project, check=True, capture_output=True, text=True
    ).stdout


def dvc(folder: Path, *arguments: str) -> str:
    """Runs DVC in any folder; returns what it prints."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(project: Path, message: str) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", message)


def run(
    project: Path, *command: str, env: Mapping[str, str] | None = None, status: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment in the project; its output is in the error if the status is another."""
    bin_dir = Path(sys.executable).parent
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "AWS_"))}
    path = f"{bin_dir}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=project,
        env={**inherited, "PATH": path, **(env or {})},
        capture_output=True,
        text=True,
        timeout=500,
    )
    if status is not None:
        assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
