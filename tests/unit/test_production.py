"""Loading what the registry has, with a real registry on SQLite and real signatures."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.pyfunc import PyFuncModel

from components import tracking
from components.errors import InputError
from components.files import sha256_file
from components.generative import load_card
from components.packaging import register, save_package
from components.production import check_package, load_production
from components.registry.weights import DIGEST
from components.signing import REQUIRE, make_keys, sign
from tests.packages import write_model
from tests.project import SOURCE

NAME = "vitrine-gan"
REQUEST = pd.DataFrame([{"category": "dress", "n": 1, "seed": 1}])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a registry that has a signed champion, a challenger without a signature, and a key."""
    folder = tmp_path_factory.mktemp("registry")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv(REQUIRE, raising=False)
        tracking.connect()
        model_dir = write_model(folder)
        card = load_card(model_dir)
        save_package(model_dir, card.attributes, folder / "package")
        make_keys(folder / "signing.pem")
        client = mlflow.MlflowClient()
        with mlflow.start_run():
            unsigned = register(folder / "package", NAME, {DIGEST: card.weights_sha256})
            other = register(folder / "package", NAME, {DIGEST: "0" * 64})
            sign(folder / "package", folder / "signing.pem")
            signed = register(folder / "package", NAME, {DIGEST: card.weights_sha256})
        aliases = {"champion": signed, "challenger": unsigned, "mistaken": other}
        for alias, version in aliases.items():
            client.set_registered_model_alias(NAME, alias, version)
        yield folder
    mlflow.set_tracking_uri(before)


def first_image(model: PyFuncModel) -> bytes:
    answer = model.predict(REQUEST)
    assert isinstance(answer, pd.DataFrame)
    return bytes(answer["png"].iloc[0])


@pytest.fixture
def package(registry: Path, tmp_path: Path) -> Path:
    """A copy of the signed package."""
    return Path(shutil.copytree(registry / "package", tmp_path / "package"))


def test_the_champion_is_loaded_by_its_name_alone(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = first_image(load_production(NAME))
    assert png.startswith(b"\x89PNG")
    monkeypatch.setenv(REQUIRE, "signing.pub")
    assert first_image(load_production(NAME)) == png
    assert first_image(load_production(NAME, public_key=registry / "signing.pub")) == png


def test_what_python_left_in_a_store_does_no_harm_and_is_not_run(registry: Path) -> None:
    """A store in a local folder: MLflow has loaded the model right there."""
    version = mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion")
    stored = Path(mlflow.artifacts.download_artifacts(version.source)) / "code" / "components" / "__pycache__"
    assert stored.is_relative_to(registry)
    stored.mkdir(exist_ok=True)
    (stored / "images.cpython-311.pyc").write_bytes(b"not signed")
    try:
        load_production(NAME, public_key=registry / "signing.pub")
    finally:
        shutil.rmtree(stored)


def test_an_unsigned_version_is_refused_if_a_signature_is_asked_for(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_production(NAME, "challenger")
    with pytest.raises(InputError, match="not signed"):
        load_production(NAME, "challenger", registry / "signing.pub")
    monkeypatch.setenv(REQUIRE, "signing.pub")
    with pytest.raises(InputError, match="not signed"):
        load_production(NAME, "challenger")


@pytest.mark.usefixtures("registry")
def test_other_weights_than_those_that_were_evaluated_are_refused() -> None:
    with pytest.raises(InputError, match=r"evaluated was 0{64}"):
        load_production(NAME, "mistaken")


@pytest.mark.usefixtures("registry")
def test_no_such_version_is_told() -> None:
    for name, alias in ((NAME, "nobody"), ("vitrine-none", "champion")):
        with pytest.raises(InputError, match=f"no version of '{name}' has the alias '{alias}'"):
            load_production(name, alias)


def test_a_package_is_checked_whole(registry: Path, package: Path) -> None:
    weights = package / "artifacts/gan/weights.safetensors"
    digest = sha256_file(weights)
    check_package(package, digest, registry / "signing.pub")
    with pytest.raises(InputError, match=DIGEST):
        check_package(package, None, registry / "signing.pub")
    with (package / "code/components/images.py").open("a") as file:
        file.write("# altered\n")
    check_package(package, digest, None)
    with pytest.raises(InputError, match=r"images\.py was altered"):
        check_package(package, digest, registry / "signing.pub")
    weights.unlink()
    with pytest.raises(InputError, match="no such file"):
        check_package(package, digest, None)


def load_elsewhere(package: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Loads a package in a process that knows nothing of the project, with the code that is in the package."""
    program = f"import mlflow.pyfunc; mlflow.pyfunc.load_model({str(package)!r}); print('loaded')"
    return subprocess.run(
        [sys.executable, "-I", "-c", program],
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        cwd=package.parent,
    )


def test_the_packaged_model_itself_refuses_altered_weights(registry: Path, package: Path) -> None:
    """Altered consistently: weights and the card that names their SHA-256."""
    required = {REQUIRE: str(registry / "signing.pub")}
    done = load_elsewhere(package, **required)
    assert done.stdout == "loaded\n", done.stderr
    assert list(package.rglob("__pycache__"))  # so the check lets pass what Python compiles
    weights, card = package / "artifacts/gan/weights.safetensors", package / "artifacts/gan/model.json"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"weights_sha256": sha256_file(weights)}))
    assert load_elsewhere(package).stdout == "loaded\n"
    refused = load_elsewhere(package, **required)
    assert refused.returncode != 0
    assert "weights.safetensors was altered" in refused.stderr
    assert str(SOURCE / "components") not in refused.stderr
