"""Starting from trained weights: from folders, a real registry and checkpoints, and what does not fit."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from torch import Tensor

from components import tracking
from components.dataset import DatasetInfo
from components.errors import InputError
from components.files import sha256_file
from components.generative import GenerativeModel, build, load_model, save_model
from components.models import family_settings
from components.networks.averaging import Average
from components.packaging import register, save_package
from components.settings import FamilySettings, InitFrom, check
from components.training import checkpoints
from components.training.transfer import initialise

PARAMS = Path(__file__).parents[3] / "params.yaml"
FAMILIES = ("gan", "vae")
SMALL = {"latent_dim": 8, "width": 8, "max_width": 16, "embedding_dim": 4, "components": 2}
TABLE = {"gan": "embedding.tables.0.weight", "vae": "networks.decoder.embedding.tables.0.weight"}
"""A table with a row per category, in the weights that are saved."""


def with_small(raw: Any, changed: dict[str, Any]) -> Any:
    """Settings with tiny networks, at whatever depth their keys stand."""
    if not isinstance(raw, dict):
        return raw
    return {key: changed[key] if key in changed else with_small(value, changed) for key, value in raw.items()}


def small(family: str, **changed: Any) -> FamilySettings:
    raw = yaml.safe_load(PARAMS.read_text())["train"][family]
    return family_settings(family, with_small(raw, SMALL | changed))


def data(*categories: str, **others: tuple[str, ...]) -> DatasetInfo:
    attributes = {"category": categories or ("bag", "boot", "dress"), **others}
    return DatasetInfo((1, 32, 32), attributes, {"train": 1}, "d" * 64)


def model(family: str, seed: int, info: DatasetInfo | None = None, **changed: Any) -> GenerativeModel:
    torch.manual_seed(seed)
    return build(family, small(family, **changed), info or data())


def trained(family: str, info: DatasetInfo | None = None) -> GenerativeModel:
    """As after a training: each weight is of its own, and averages are not what they follow."""
    found = model(family, 1, info)
    with torch.no_grad():
        for index, tensor in enumerate((*found.parameters(), *found.buffers())):
            if tensor.is_floating_point():
                tensor.add_(0.01 * (index + 1))
    return found


def saved(family: str, folder: Path, info: DatasetInfo | None = None) -> GenerativeModel:
    found = trained(family, info)
    save_model(found, family, small(family), info or data(), folder)
    return found


def init(source: object, *allow: str) -> InitFrom:
    return InitFrom(source=str(source), allow=list(allow))


def images(found: GenerativeModel) -> Tensor:
    return found.eval().sample(torch.tensor([[0], [1], [2]]), torch.Generator().manual_seed(1))


def assert_averages_are_followed(found: GenerativeModel) -> None:
    averages = [module for module in found.modules() if isinstance(module, Average)]
    assert averages
    for average in averages:
        (followed,) = average._followed
        for name, weight in average.module.state_dict().items():
            torch.testing.assert_close(followed.state_dict()[name], weight, rtol=0, atol=0)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose registry has one version of each family; the GAN's is the champion."""
    folder = tmp_path_factory.mktemp("project")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
        for name in FAMILIES:
            saved(name, folder / name)
            save_package(folder / name, data().attributes, folder / "packages" / name)
            with mlflow.start_run():
                register(folder / "packages" / name, f"vitrine-{name}", {})
        mlflow.MlflowClient().set_registered_model_alias("vitrine-gan", "champion", "1")
        yield folder
    mlflow.set_tracking_uri(before)


def test_a_folder_gives_averaged_and_trained_weights(family: str, tmp_path: Path) -> None:
    source, started = saved(family, tmp_path / "model"), model(family, 2)
    tags = initialise(started, init(tmp_path / "model"), family, data())
    loaded = load_model(tmp_path / "model")
    fitted = loaded.refitted
    for name, weight in source.sampling_state().items():
        if not (fitted and name.startswith(fitted)):
            torch.testing.assert_close(started.sampling_state()[name], weight, rtol=0, atol=0)
    assert_averages_are_followed(started)
    assert tags == {
        "vitrine.init_from": str(tmp_path / "model"),
        "vitrine.init_from_sha256": sha256_file(tmp_path / "model" / "weights.safetensors"),
    }


def test_a_gan_started_so_makes_the_same_images(tmp_path: Path) -> None:
    saved("gan", tmp_path / "model")
    started = model("gan", 2)
    initialise(started, init(tmp_path / "model"), "gan", data())
    torch.testing.assert_close(images(started), images(load_model(tmp_path / "model")), rtol=0, atol=0)


def test_what_is_fitted_after_the_training_is_left_out(tmp_path: Path) -> None:
    source, started = saved("vae", tmp_path / "model"), model("vae", 2)
    fresh = {name: tensor.clone() for name, tensor in started.sampling_state().items() if name.startswith("density.")}
    assert fresh
    initialise(started, init(tmp_path / "model"), "vae", data())
    for name, tensor in fresh.items():
        torch.testing.assert_close(started.sampling_state()[name], tensor, rtol=0, atol=0)
    assert any(not torch.equal(source.sampling_state()[name], tensor) for name, tensor in fresh.items())


@pytest.mark.parametrize("source", ["models:/vitrine-gan/1", "models:/vitrine-gan@champion"])
def test_a_registered_version_is_fetched(source: str, registry: Path) -> None:
    started = model("gan", 2)
    tags = initialise(started, init(source), "gan", data())
    torch.testing.assert_close(images(started), images(load_model(registry / "gan")), rtol=0, atol=0)
    assert tags == {
        "vitrine.init_from": "models:/vitrine-gan/1",
        "vitrine.init_from_sha256": sha256_file(registry / "gan" / "weights.safetensors"),
    }


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("source", ["models:/vitrine-gan/2", "models:/vitrine-gan@best", "models:/nothing/1"])
def test_what_the_registry_has_not_is_told(source: str) -> None:
    with pytest.raises(InputError, match=rf"train\.gan\.init_from\.source is '{source}'"):
        initialise(model("gan", 2), init(source), "gan", data())


@pytest.mark.parametrize("source", ["models:/vitrine-gan", "models:/vitrine-gan/latest", "models:/a/b/1"])
def test_a_version_without_its_number_or_alias_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=f"source: found '{source}'; a registered version is given as"):
        check(InitFrom, json.dumps({"source": source, "allow": []}), "params.yaml")


@pytest.mark.usefixtures("registry")
def test_another_family_is_refused() -> None:
    with pytest.raises(InputError, match=r"init_from: models:/vitrine-vae/1 is a 'vae'; give a source of family 'gan'"):
        initialise(model("gan", 2), init("models:/vitrine-vae/1"), "gan", data())


def test_a_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    for source, found in ((tmp_path / "nowhere", "no such file or folder"), (tmp_path, "a folder without model.json")):
        with pytest.raises(InputError, match=f"{found}; give models:/NAME/VERSION"):
            initialise(model("gan", 2), init(source), "gan", data())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    saved("gan", tmp_path / "model")
    path = tmp_path / "model" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"weights\.safetensors: SHA-256 is"):
        initialise(model("gan", 2), init(tmp_path / "model"), "gan", data())


def test_all_that_does_not_fit_is_named_with_both_shapes(family: str, tmp_path: Path) -> None:
    source, other = saved(family, tmp_path / "model"), model(family, 2, latent_dim=9)
    mine, theirs = other.sampling_state(), source.sampling_state()
    before = {name: tensor.clone() for name, tensor in mine.items()}
    with pytest.raises(InputError) as refused:
        initialise(other, init(tmp_path / "model"), family, data())
    wrong = [
        name
        for name in mine
        if mine[name].shape != theirs[name].shape and not (other.refitted and name.startswith(other.refitted))
    ]
    assert wrong
    lines = str(refused.value).split("\n")
    assert f"{len(wrong)} weight(s) do not fit" in lines[0]
    for name, line in zip(wrong, lines[1:-1], strict=True):
        shapes = ["x".join(map(str, state[name].shape)) for state in (mine, theirs)]
        assert line == f"  {name}: {shapes[0]} in this model, {shapes[1]} in the source"
    for name, tensor in before.items():
        torch.testing.assert_close(other.sampling_state()[name], tensor, rtol=0, atol=0)


def test_what_is_allowed_starts_anew_and_is_told(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other = saved(family, tmp_path / "model"), model(family, 2, latent_dim=9)
    fresh = {name: tensor.clone() for name, tensor in other.sampling_state().items()}
    theirs = source.sampling_state()
    wrong = [name for name in fresh if fresh[name].shape != theirs[name].shape]
    initialise(other, init(tmp_path / "model", *(name[:-3] for name in wrong)), family, data())
    said = capsys.readouterr().out
    for name, weight in other.sampling_state().items():
        if other.refitted and name.startswith(other.refitted):
            continue
        torch.testing.assert_close(weight, fresh[name] if name in wrong else theirs[name], rtol=0, atol=0)
        assert (f"  {name}: starts anew, " in said) == (name in wrong)


def test_missing_and_superfluous_weights_are_named(tmp_path: Path) -> None:
    info = data("bag", "boot", color=("red", "blue"))
    saved("gan", tmp_path / "one")
    saved("gan", tmp_path / "two", info)
    with pytest.raises(InputError, match=r"embedding\.tables\.1\.weight: 2x4 in this model, not in the source"):
        initialise(model("gan", 2, info), init(tmp_path / "one"), "gan", info)
    with pytest.raises(InputError, match=r"embedding\.tables\.1\.weight: 2x4 in the source, not in this model"):
        initialise(model("gan", 2), init(tmp_path / "two"), "gan", data())


def test_known_categories_keep_their_vectors(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One was added, one has gone, and all stand elsewhere."""
    theirs = saved(family, tmp_path / "model").sampling_state()[TABLE[family]]
    info = data("boot", "hat", "bag", "scarf")
    started = model(family, 2, info)
    fresh = started.sampling_state()[TABLE[family]].clone()
    initialise(started, init(tmp_path / "model"), family, info)
    found = started.sampling_state()[TABLE[family]]
    expected = torch.stack([theirs[1], fresh[1], theirs[0], fresh[3]])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert_averages_are_followed(started)
    said = f"  {TABLE[family]}: category ['hat', 'scarf'] starts anew; category ['dress'] is left out"
    assert said in capsys.readouterr().out.splitlines()


def test_the_same_number_of_other_categories_is_no_disguise(tmp_path: Path) -> None:
    theirs = saved("gan", tmp_path / "model").sampling_state()[TABLE["gan"]]
    info = data("dress", "bag", "boot")
    started = model("gan", 2, info)
    initialise(started, init(tmp_path / "model"), "gan", info)
    torch.testing.assert_close(started.sampling_state()[TABLE["gan"]], theirs[[2, 0, 1]], rtol=0, atol=0)


def test_tables_of_another_attribute_do_not_fit(tmp_path: Path) -> None:
    """The layer behind them takes the attributes' vectors by their places."""
    saved("gan", tmp_path / "model", DatasetInfo((1, 32, 32), {"color": ("red", "blue", "green")}, {}, "d" * 64))
    with pytest.raises(InputError, match=r"tables\.0\.weight: of attribute 'category' in this model, of 'color'"):
        initialise(model("gan", 2), init(tmp_path / "model"), "gan", data())


def checkpoint(folder: Path, found: GenerativeModel, info: DatasetInfo, **extra: Any) -> Path:
    attributes = {name: list(values) for name, values in info.attributes.items()}
    state = {"step": 3, "images": 24, "model": found.state_dict(), "attributes": attributes, **extra}
    content = checkpoints.encode(state)
    manifest = checkpoints.manifest_of(content, state, "run")
    checkpoints.write(folder, content, manifest)
    return folder / manifest.data_name


def test_a_checkpoint_gives_all_weights(family: str, tmp_path: Path) -> None:
    source, started = trained(family), model(family, 2)
    path = checkpoint(tmp_path, source, data(), family=family)
    tags = initialise(started, init(path), family, data())
    for name, weight in source.state_dict().items():
        if not (source.refitted and name.startswith(source.refitted)):
            torch.testing.assert_close(started.state_dict()[name], weight, rtol=0, atol=0)
    assert tags["vitrine.init_from_sha256"] == json.loads(path.with_suffix(".json").read_text())["sha256"]


def test_a_checkpoints_discriminator_knows_the_categories_too(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, trained("gan"), data(), family="gan")
    theirs = checkpoints.load_checkpoint(path)["model"]
    info = data("boot", "bag", "dress", "hat")
    started = model("gan", 2, info)
    tables = [name for name, tensor in started.state_dict().items() if len(tensor.shape) == 2 and len(tensor) == 4]
    fresh = {name: started.state_dict()[name].clone() for name in tables}
    initialise(started, init(path), "gan", info)
    assert any(name.startswith("discriminator.") for name in tables)
    for name in tables:
        expected = torch.cat([theirs[name][[1, 0, 2]], fresh[name][3:]])
        torch.testing.assert_close(started.state_dict()[name], expected, rtol=0, atol=0)


def test_an_altered_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, trained("gan"), data(), family="gan")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"with SHA-256 .* take another checkpoint"):
        initialise(model("gan", 2), init(path), "gan", data())


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, trained("vae"), data(), family="vae")
    with pytest.raises(InputError, match="is a 'vae'; give a source of family 'gan'"):
        initialise(model("gan", 2), init(path), "gan", data())


def test_a_registered_model_that_is_none_of_ours_is_told(registry: Path, tmp_path: Path) -> None:
    """Someone else's pyfunc model of that name."""
    shutil.copytree(registry / "gan", tmp_path / "two" / "gan")
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PARAMS.parent / "components" / "serving.py"),
            artifacts={"model": str(PARAMS)},
            code_paths=[],
            pip_requirements=[],
        )
        mlflow.register_model(logged.model_uri, "foreign")
    with pytest.raises(InputError, match="holds no model of Vitrine's"):
        initialise(model("gan", 2), init("models:/foreign/1"), "gan", data())
