from pathlib import Path
from typing import Any

import pytest
import yaml

from components.check import check_params, main, trained_settings
from components.errors import InputError
from components.settings import load_settings

NETWORK = {"architecture": "resnet", "width": 32, "max_width": 64, "attention": None, "blocks": None}
NETWORK |= {"group_size": None, "dropout": 0.0}
GENERATOR = NETWORK | {"embedding_dim": 8}
DISCRIMINATOR = NETWORK | {"multi_scale": False, "spectral_norm": False}
POLICY = yaml.safe_load(Path("params.yaml").read_text())["gate"]["gan"]
R3GAN = {"architecture": "r3gan", "blocks": 1, "group_size": 5}


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
        ("promote.approval", "ask", r"promote\.approval: found 'ask'; input should be 'auto' or 'human'"),
        ("validate.tolerance", float("nan"), r"validate\.tolerance: found nan"),
        (
            "gate.gan.thresholds",
            [{"metric": "fid"}],
            r"gate\.gan\.thresholds\.0: check of 'fid' needs exactly one of at_most and at_least",
        ),
        (
            "gate.gan.champion",
            [{"metric": "fid", "direction": "minimize"}],
            r"gate\.gan\.champion\.0: comparison of 'fid' needs exactly one of better_by and worse_by_at_most",
        ),
        ("gate.gan.memorisation", [], r"gate\.gan\.memorisation: [Ll]ist should have at least 1 item"),
        (
            "gate.gan.first_model",
            "maybe",
            r"gate\.gan\.first_model: found 'maybe'; input should be 'promote' or 'hold'",
        ),
        (
            "gate.gan.required",
            ["fid"],
            r"gate\.gan: a check over all images asks for 'fid', which is not measured with",
        ),
        (
            "gate.gan.by_category",
            [{"metric": "fd_efflite0", "at_most": 1}],
            r"gate\.gan: by_category asks for 'fd_efflite0', which is not measured",
        ),
        ("evaluate.extractor", "inception", r"evaluate: extractor 'inception' needs weights: their path or URL"),
        ("train.gan.los", "hinge", r"train\.gan.*\n.*los: unknown key, found 'hinge'"),
        ("train.gan.batch_size", 0, r"train\.gan.*\n.*batch_size: found 0; input should be greater than"),
        ("train.betavae", {}, r"model 'betavae' is unknown; choose one of \['gan', 'vae', 'vae_gan'\]"),
        ("gate.betavae", POLICY, r"gate\.betavae: no such model under train"),
        ("train.models", [], r"train\.models: [Ll]ist should have at least 1 item"),
        ("train.models", ["gan", "betavae"], r"train\.models: found 'betavae', train has entries for \['gan'"),
        ("train.models", ["gan", "gan"], r"train\.models: found \['gan', 'gan'\], a model is named twice"),
        ("gate", {}, r"gate\.vae: missing; a model without a policy can never pass"),
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
        ("train.gan.accumulate", 5, r"params\.yaml: train\.gan\.batch_size is 32, which cannot be divided by 5"),
        ("train.common.devices", 3, r"(?s)train\.gan\.batch_size is 32.* by 3.*train\.vae\.batch_size is 32.* by 3"),
        ("train.common.nodes", 5, r"train\.vae\.batch_size is 32, which cannot be divided by 5"),
        (
            "train.gan.generator",
            GENERATOR | {"attention": 64},
            r"train\.gan\.generator\.attention: found 64; .* layers at \[8, 16, 32\] pixels.*; prepare\.size is 32",
        ),
        (
            "train.gan.discriminator",
            DISCRIMINATOR | {"attention": 32},
            r"train\.gan\.discriminator\.attention: found 32",
        ),
        ("train.gan.generator", GENERATOR | R3GAN, r"train\.gan\.generator\.group_size: found 5, a block of"),
        ("train.gan.discriminator", DISCRIMINATOR | R3GAN, r"train\.gan\.discriminator\.group_size: found 5, a block"),
        (
            "train.gan.init_from",
            {"source": "/nowhere", "allow": []},
            r"params\.yaml: train\.gan\.init_from\.source: found '/nowhere', there is no such file or folder",
        ),
        ("train.gan.init_from", {"source": "/", "allow": [""]}, r"init_from\.allow\.0: found ''; string should have"),
        ("prepare.split.val", 0.0, r"prepare\.split\.val: found 0, but train\.common\.quality judges"),
        ("prepare.split.test", 0.0, r"prepare\.split\.test: found 0, but evaluate\.split is 'test'"),
        ("train.common.watchdogs.discriminator_accuracy.warn", 1.5, r"discriminator_accuracy: warn is 1\.5.* above 1"),
        ("train.common.watchdogs.discriminator_accuracy.stop", 98, r"discriminator_accuracy: .*stop 98.* above 1"),
        (
            "train.common.watchdogs.discriminator_accuracy.stop",
            0.5,
            r"discriminator_accuracy: stop is 0\.5, below warn",
        ),
        ("train.common.watchdogs.diversity.warn", -0.1, r"diversity\.warn: found -0\.1; .* greater than or equal to 0"),
        ("train.common.watchdogs.diversity.stop", 0.4, r"diversity: stop is 0\.4, above warn, 0\.3"),
        ("train.common.watchdogs.active_units.stop", 3, r"active_units: stop is 3, above warn, 2"),
        ("train.vae.autoencoder.dropout", 0.5, r"train\.vae.*\n.*autoencoder: dropout is 0\.5, but encoder_blocks and"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        check_params(changed(tmp_path, key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # Looked up when the training begins: there may be no registry yet.
        ("train.gan.init_from", {"source": "models:/vitrine-gan/3", "allow": ["ema."]}),
        ("train.gan.init_from", {"source": "components", "allow": []}),
        ("train.gan.generator", GENERATOR | {"attention": 32}),
        ("train.gan.discriminator", DISCRIMINATOR | R3GAN | {"group_size": 16}),
        ("train.common.watchdogs.diversity", {"warn": None, "stop": 0.02}),
        ("train.common.watchdogs.discriminator_accuracy", {"warn": 1, "stop": 1.0}),
        # What only a training of it would need; train.models does not name vae_gan.
        ("train.vae_gan.accumulate", 5),
        ("train.vae_gan.init_from", {"source": "/nowhere", "allow": []}),
    ],
)
def test_what_can_be_used_is_accepted(key: str, value: Any, tmp_path: Path) -> None:
    check_params(changed(tmp_path, key, value))


def test_a_family_that_waits_is_checked_whole_when_it_is_trained(tmp_path: Path) -> None:
    settings = check_params(changed(tmp_path, "train.vae_gan.accumulate", 5))
    with pytest.raises(InputError, match=r"train\.vae_gan\.batch_size is 64, which cannot be divided by 5"):
        trained_settings("vae_gan", settings)


def test_no_condition_at_all_is_accepted_unless_one_is_named_elsewhere(tmp_path: Path) -> None:
    path = changed(tmp_path, "prepare.conditions", [])
    with pytest.raises(InputError, match=r"by_category asks for 'condition_fidelity'.*measured are no categories"):
        check_params(path)
    content = yaml.safe_load(path.read_text())
    for policy in content["gate"].values():
        policy["by_category"] = []
    path.write_text(yaml.safe_dump(content))
    assert check_params(path).prepare.conditions == []
    content = yaml.safe_load(path.read_text())
    content["train"]["common"]["augment"]["flip_not"] = {"category": ["shoes"]}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"flip_not\.category: no such condition; prepare\.conditions has \[\]"):
        check_params(path)


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
