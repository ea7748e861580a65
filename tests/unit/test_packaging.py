"""The packaged model: what it imports against what its requirements bring, and that its bytes stay as they were."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest

from components import tracking
from components.errors import InputError
from components.files import sha256_file
from components.generative import load_card
from components.models import available_models
from components.packaging import REQUIREMENTS, input_example, register, save_package, signature, weights_folder
from components.signing import make_keys, public_key_file, sign, verify
from tests.packages import write_model, write_package

UNTOLD = {"pyopenssl"}
"""What model-signing imports and does not name among its own requirements."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("model"))


def test_requirements_are_what_the_packaged_code_imports() -> None:
    """Modules that components.serving's own files import, asked of a fresh interpreter."""
    families = [f"components.models.{family}" for family in available_models()]
    code = (
        "import importlib, json\n"
        "from components.smoke_process import distributions, note_imports\n"
        "note_imports()\n"
        "import components.serving, components.signing\n"
        f"for family in {families}:\n"
        "    importlib.import_module(family)\n"
        "print(json.dumps(distributions()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = json.loads(done.stdout)
    assert {"torch", "mlflow", "PIL", "ruamel"} <= imported.keys()
    unmet = {
        name: brought for name, brought in imported.items() if not {d.lower() for d in brought} & set(REQUIREMENTS)
    }
    assert unmet == {}
    idle = set(REQUIREMENTS) - UNTOLD - {d.lower() for brought in imported.values() for d in brought}
    assert idle == set()


def test_a_package_holds_the_weights_the_code_and_nothing_compiled(package: Path) -> None:
    names = {path.relative_to(package).as_posix() for path in package.rglob("*")}
    assert {"MLmodel", "serving.py", "artifacts/gan/weights.safetensors", "artifacts/gan/model.json"} <= names
    assert {"code/components/generative.py", "code/components/networks/dcgan.py"} <= names
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []
    assert weights_folder(package) == package / "artifacts" / "gan"


def test_requirements_name_versions_that_any_machine_can_install(package: Path) -> None:
    lines = (package / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == list(REQUIREMENTS)
    assert f"torch=={version('torch').partition('+')[0]}" in lines
    assert not any("+" in line for line in lines)


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 files artifacts/\*/model.json"):
        weights_folder(tmp_path)


def test_the_registry_gives_back_the_bytes_that_were_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alias alone leads to the model and to its signature."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    model_dir, folder, key = write_model(tmp_path), tmp_path / "package", tmp_path / "signing.pem"
    save_package(model_dir, load_card(model_dir).attributes, folder)
    make_keys(key)
    sign(folder, key)
    try:
        tracking.connect()
        with mlflow.start_run() as run:
            mlflow.log_param("width", 8)
            number = register(folder, "vitrine-gan", {"vitrine.weights_sha256": "f" * 64})
        client = mlflow.MlflowClient()
        client.set_registered_model_alias("vitrine-gan", "champion", number)
        version = client.get_model_version_by_alias("vitrine-gan", "champion")
        logged = client.get_logged_model(str(version.source).removeprefix("models:/"))
        copy = Path(
            mlflow.artifacts.download_artifacts("models:/vitrine-gan@champion", dst_path=str(tmp_path / "copy"))
        )
    finally:
        mlflow.set_tracking_uri(before)
    assert (number, version.run_id) == ("1", run.info.run_id)
    assert version.tags["vitrine.weights_sha256"] == "f" * 64
    assert (logged.name, str(logged.status), logged.source_run_id) == ("model", "READY", run.info.run_id)
    assert logged.params == {"width": "8"}
    verify(copy, public_key_file(key))
    assert digests(copy) == digests(folder)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but the one that MLflow adds."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "registered_model_meta")
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def test_telemetry_is_off_without_our_services() -> None:
    code = (
        "import components.tracking\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PATH": ""})
    assert done.stdout.strip() == "True"


def test_a_request_without_conditions_has_n_and_seed_alone() -> None:
    asked = signature({})
    assert asked.inputs.input_names() == ["n", "seed"]
    assert asked.outputs.input_names() == ["seed", "index", "png"]
    assert input_example({}).to_dict("records") == [{"n": 1, "seed": 1}]
