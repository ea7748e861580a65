from pathlib import Path
from typing import Any

import pytest
import yaml

from components.check import check_params, main
from components.errors import InputError
from components.settings import load_settings


def changed(folder: Path, key: str, value: Any) -> Path:
    """params.yaml with one key set, dots going deeper."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_projects_own_file_is_accepted() -> None:
    settings = check_params()
    assert settings.train.families.keys() == {"gan", "vae", "vae_gan"}
    assert settings.train.models == ["gan", "vae"]
    assert len(settings.validation.suite) >= 12


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prepare.sise", 32, r"prepare\.sise: unknown key, found 32"),
        ("prepare.size", 33, r"prepare\.size: found 33; input should be 32, 64, 128 or 256"),
        ("prepare.size", "32", r"prepare\.size: found '32'; input should be 32"),
        ("prepare.split.test", 1.5, r"prepare\.split\.test: found 1\.5; input should be less than or equal to 1"),
        ("prepare.split.test", 0.97, r"prepare\.split: val \+ test is 1\.02; it must be below 1"),
        ("data.source", "imagenet", r"data\.source: found 'imagenet'; input should be 'fashion-mnist'"),
        ("data.subset", 0, r"data\.subset: found 0; input should be greater than or equal to 1"),
        ("evaluate.samples", True, r"evaluate\.samples: found True; input should be a valid integer"),
        ("train.common.seed", -1, r"train\.common\.seed: found -1; input should be greater than or equal to 0"),
        ("promote.direction", "down", r"promote\.direction: found 'down'; input should be 'minimize' or 'maximize'"),
        ("validate.tolerance", float("nan"), r"validate\.tolerance: found nan"),
        ("gate.gan", [{"metric": "fid"}], r"gate\.gan\.0: check of 'fid' needs exactly one of at_most and at_least"),
        ("train.gan.los", "hinge", r"train\.gan.*\n.*los: unknown key, found 'hinge'"),
        ("train.gan.batch_size", 0, r"train\.gan.*\n.*batch_size: found 0; input should be greater than"),
        ("train.betavae", {}, r"model 'betavae' is unknown; choose one of \['gan', 'vae', 'vae_gan'\]"),
        ("gate.betavae", [], r"gate\.betavae: no such model under train"),
        ("train.models", [], r"train\.models: [Ll]ist should have at least 1 item"),
        ("train.models", ["gan", "betavae"], r"train\.models: found 'betavae', train has entries for \['gan'"),
        ("train.models", ["gan", "gan"], r"train\.models: found \['gan', 'gan'\], a model is named twice"),
        ("gate.vae", [], r"gate\.vae: missing or empty; a model without a policy can never pass"),
        ("flow.nightly_cron", "banana", r"flow\.nightly_cron: found 'banana'; string should match pattern"),
        ("flow.nightly_cron", "0 25 * * *", r"flow\.nightly_cron: found '0 25 \* \* \*'; no schedule"),
        ("data.source", "folder", r"data: source is 'folder', so path must name it; it is null"),
        ("data.source", "s3", r"data: source is 's3', so s3\.url must name the bucket"),
        ("data.s3.url", "http://bucket", r"data\.s3\.url: found 'http://bucket'; string should match pattern"),
        ("decoding.memory_mb", 8, r"decoding\.memory_mb: found 8; input should be greater than or equal to 256"),
        ("prepare.conditions", ["color", "color"], r"prepare\.conditions.*a condition is named twice"),
        (
            "prepare.outliers",
            {"resolution": 64, "list_above": 3.0, "drop_above": 2.0},
            r"prepare\.outliers: drop_above is 2, below list_above, 3",
        ),
        (
            "train.common.augment.flip_not",
            {"kind": ["shoes"]},
            r"flip_not\.kind: no such condition; prepare\.conditions has \['category'\]",
        ),
        ("flow.timezone", "Mars/Phobos", r"flow\.timezone: found 'Mars/Phobos'; no such time zone"),
        ("train.common.seed", 2**32, r"train\.common\.seed: found 4294967296; input should be less than"),
        (
            "train.gan.generator_optimizer.beta1",
            5,
            r"train\.gan.*\n.*generator_optimizer\.beta1: found 5; input should be less than 1",
        ),
        ("data.fashion_mnist.origin", "folder", r"origin is 'folder', so folder must name it; it is null"),
        ("flow.nightly_cron", 5, r"flow\.nightly_cron: found 5; input should be a valid string"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        check_params(changed(tmp_path, key, value))


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    path = changed(tmp_path, "prepare.size", 31)
    path.write_text(path.read_text().replace("source:", "sauce:"))
    with pytest.raises(InputError, match=r"(?s)data\.sauce.*prepare\.size|prepare\.size.*data\.sauce"):
        load_settings(path)


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    text = Path("params.yaml").read_text()
    assert "tolerance: 0.01" in text
    (tmp_path / "params.yaml").write_text(text.replace("tolerance: 0.01", "tolerance: 1e-4"))
    assert load_settings(tmp_path / "params.yaml").validation.tolerance == 1e-4


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, "prepare", {"size": 32, "fit": "pad"})
    with pytest.raises(InputError, match=r"prepare\.split: missing; it must be given"):
        load_settings(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: not found; start in the project's root or give --params"):
        load_settings(tmp_path / "nowhere.yaml")


def test_what_is_no_yaml_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: [1, 2\nprepare: {")
    with pytest.raises(InputError, match=r"cannot be read as YAML(.|\n)*line 2"):
        load_settings(tmp_path / "params.yaml")


def test_the_check_ends_with_status_2_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--params", str(changed(tmp_path, "prepare.size", 5))])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "Traceback" not in shown
