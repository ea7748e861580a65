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
from components.generative import WEIGHTS, load_card
from components.packaging import register, save_package
from components.production import check_package, load_production
from components.registry.alias import settle
from components.registry.journal import open_journal
from components.registry.promotion import promote
from components.registry.verdicts import record_verdict
from components.registry.weights import DIGEST
from components.signing import REQUIRE, make_keys, sign
from tests.packages import write_model
from tests.project import SOURCE
from tests.registering import NAME, alias, set_alias, verdict
from tests.registering import register as register_bytes

OLD = "vitrine-old"
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
        weights = card.weights_sha256
        save_package(model_dir, card.attributes, folder / "package")
        make_keys(folder / "signing.pem")
        client = mlflow.MlflowClient()
        with mlflow.start_run():
            unsigned = register(folder / "package", NAME, {DIGEST: weights})
            other = register(folder / "package", NAME, {DIGEST: "0" * 64})
            sign(folder / "package", folder / "signing.pem")
            signed = register(folder / "package", NAME, {DIGEST: weights})
            # A model from before the journal, and one whose journal has a champion.
            old = register(folder / "package", OLD, {DIGEST: weights})
        client.set_registered_model_alias(OLD, "champion", old)
        record_verdict(NAME, signed, verdict(signed, None))
        promote(NAME, signed, expect_champion=None, why="first")
        for other_alias, version in {"challenger": unsigned, "mistaken": other}.items():
            client.set_registered_model_alias(NAME, other_alias, version)
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


def test_what_production_would_refuse_is_not_promoted(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.exists()
    client = mlflow.MlflowClient()
    unsigned = str(client.get_model_version_by_alias(NAME, "challenger").version)
    champion = str(client.get_model_version_by_alias(NAME, "champion").version)
    record_verdict(NAME, unsigned, verdict(unsigned, champion))
    monkeypatch.setenv(REQUIRE, "signing.pub")
    with pytest.raises(InputError, match="sign"):
        promote(NAME, unsigned, expect_champion=champion, why="as good")
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == champion


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
    # The packaged model would refuse as well, but by then its code runs, which may be altered.
    monkeypatch.setattr("mlflow.pyfunc.load_model", lambda _: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match="not signed"):
        load_production(NAME, "challenger")


@pytest.mark.usefixtures("registry")
def test_other_weights_than_those_that_were_evaluated_are_refused() -> None:
    with pytest.raises(InputError, match=r"evaluated was 0{64}"):
        load_production(NAME, "mistaken")


@pytest.mark.usefixtures("registry")
def test_no_such_version_is_told() -> None:
    with pytest.raises(InputError, match=f"no version of '{NAME}' has the alias 'nobody'"):
        load_production(NAME, "nobody")
    with pytest.raises(InputError, match="the registry has no model 'vitrine-none'"):
        load_production("vitrine-none")
    name = "vitrine-unloved"
    register_bytes(b"one", name)
    with pytest.raises(InputError, match=f"no version of '{name}' has the alias 'champion'"):
        load_production(name)
    open_journal(name)
    with pytest.raises(InputError, match="by its journal there is no champion; promote one"):
        load_production(name)


@pytest.mark.usefixtures("registry")
def test_an_alias_that_a_hand_has_moved_is_not_followed() -> None:
    champion = alias()
    assert champion is not None
    mistaken = str(mlflow.MlflowClient().get_model_version_by_alias(NAME, "mistaken").version)
    set_alias(mistaken)
    try:
        with pytest.warns(UserWarning, match=f"stands at {mistaken}, by the journal version {champion} is champion"):
            model = load_production(NAME)
    finally:
        set_alias(champion)
    assert first_image(model).startswith(b"\x89PNG")


def test_weights_and_tag_that_were_both_changed_are_refused(registry: Path) -> None:
    client = mlflow.MlflowClient()
    version = client.get_model_version(NAME, str(alias()))
    stored = Path(mlflow.artifacts.download_artifacts(version.source)) / "artifacts/gan" / WEIGHTS
    assert stored.is_relative_to(registry)
    kept = stored.read_bytes()
    stored.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    client.set_model_version_tag(NAME, version.version, DIGEST, sha256_file(stored))
    try:
        with pytest.raises(InputError, match=f"evaluated was {version.tags[DIGEST]}"):
            load_production(NAME)
        stored.write_bytes(kept)
        load_production(NAME)  # whatever the tag says
    finally:
        stored.write_bytes(kept)
        client.set_model_version_tag(NAME, version.version, DIGEST, version.tags[DIGEST])


@pytest.mark.usefixtures("registry")
def test_a_champion_by_hand_alone_is_refused() -> None:
    name = "vitrine-hand"
    version = register_bytes(b"one", name)
    record_verdict(name, version, verdict(version, None, name=name))
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", version)
    with pytest.raises(InputError, match=f"no champion, though the alias 'champion' stands at version {version}"):
        load_production(name)
    settle(open_journal(name))
    with pytest.raises(InputError, match=f"version {version} is champion, but nobody has noted the weights"):
        load_production(name)


@pytest.mark.usefixtures("registry")
def test_a_model_without_a_journal_is_loaded_by_its_alias_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="vitrine-old has no journal: version 1 is loaded on the word of"):
        model = load_production(OLD)
    assert first_image(model).startswith(b"\x89PNG")


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
