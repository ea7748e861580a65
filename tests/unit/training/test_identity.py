"""What makes two trainings the same."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.models import family_settings
from components.settings import Settings
from components.training import identity
from components.training.identity import code_digest, fingerprint, imported_files
from tests.project import SOURCE


def identity_of(settings: Settings, digest: str = "d", precision: str = "32-true", **changes: Any) -> str:
    family = family_settings("gan", settings.train.families["gan"])
    own = {name: value for name, value in changes.items() if name in type(family).model_fields}
    common = {name: value for name, value in changes.items() if name not in own}
    changed = settings.train.common.model_copy(update=common)
    return fingerprint("gan", family.model_copy(update=own), changed, precision, digest)


def test_what_decides_on_the_weights_makes_another_training(settings: Settings) -> None:
    identities = [
        identity_of(settings),
        identity_of(settings, digest="e"),
        identity_of(settings, precision="bf16-mixed"),
        identity_of(settings, seed=2),
        identity_of(settings, devices=2),
        identity_of(settings, log_every=7),
        identity_of(settings, images=5),
        identity_of(settings, batch_size=8),
    ]
    assert len(set(identities)) == len(identities)


def test_what_does_not_decide_on_them_leaves_it_the_same(settings: Settings) -> None:
    checkpoint = settings.train.common.checkpoint.model_copy(update={"every": 7, "keep": 9})
    watchdogs = settings.train.common.watchdogs.model_copy(update={"patience": 7})
    same = identity_of(
        settings, checkpoint=checkpoint, keep_images="disk", grids=1, grid_columns=2, watchdogs=watchdogs
    )
    assert same == identity_of(settings)


def test_all_of_our_code_that_a_training_loads_counts() -> None:
    program = (
        "import sys, components.train, components.models.gan\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'components'), sep='\\n')"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, check=True, capture_output=True, text=True)
    loaded = {Path(line) for line in shown.stdout.splitlines()}
    assert len(loaded) > 30
    found = imported_files(("components.train", "components.models.gan"))
    assert loaded <= found
    assert SOURCE / "components/models/vae.py" not in found


def test_changed_code_makes_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "components"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "train.py").write_text("def main():\n    from components.late import thing\n")
    (package / "late.py").write_text("thing = 1\n")
    (package / "other.py").write_text("")
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    before = code_digest(["components.train"])
    (package / "other.py").write_text("changed = True\n")
    assert code_digest(["components.train"]) == before
    (package / "late.py").write_text("thing = 2\n")
    assert code_digest(["components.train"]) != before
