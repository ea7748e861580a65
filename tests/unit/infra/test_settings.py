"""Settings of the services, and the environments made from them."""

import subprocess
from pathlib import Path

import pytest

from components.errors import InputError
from infra import environment
from infra.settings import MARKER, PROJECT_ROOT, ServiceSettings, load_service_settings

NO_FILE = Path("no-such.env")


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_PORT", "MLFLOW_PORT", "PREFECT_PORT", "STATE_DIR", "START_TIMEOUT"):
        monkeypatch.delenv(f"VITRINE_{name}", raising=False)


def test_defaults_stay_below_the_root() -> None:
    settings = load_service_settings(NO_FILE)
    assert settings.state_dir == PROJECT_ROOT / ".vitrine"
    assert len(set(settings.ports().values())) == 10


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("VITRINE_MLFLOW_PORT=5001\nVITRINE_PREFECT_PORT=4201\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("VITRINE_MLFLOW_PORT", "5002")
    settings = load_service_settings(file)
    assert (settings.mlflow_port, settings.prefect_port) == (5002, 4201)
    assert settings.mlflow_url == "http://127.0.0.1:5002"
    assert settings.prefect_api_url == "http://127.0.0.1:4201/api"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("VITRINE_MLFLOW_PORT", "70000", "VITRINE_MLFLOW_PORT: found '70000'.*65535"),
        ("VITRINE_S3_PORT", "many", "VITRINE_S3_PORT: found 'many'.*integer"),
        ("VITRINE_START_TIMEOUT", "nan", "VITRINE_START_TIMEOUT: found 'nan'"),
        ("VITRINE_PREFECT_PORT", "5000", "VITRINE_PREFECT_PORT and VITRINE_MLFLOW_PORT are both 5000"),
        ("VITRINE_MLFLOW_PROT", "5001", "VITRINE_MLFLOW_PROT: unknown setting.*VITRINE_MLFLOW_PORT"),
    ],
)
def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        load_service_settings(NO_FILE)


def test_an_unknown_setting_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("VITRINE_PORT=1\n")
    with pytest.raises(InputError, match=f"{file}:\n  VITRINE_PORT: unknown"):
        load_service_settings(file)


def test_a_shell_takes_the_exports_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    monkeypatch.setenv(MARKER, "of the caller")
    settings = ServiceSettings(state_dir=tmp_path / "it's a state")
    exports = environment.shell_exports(settings)
    assert MARKER not in exports
    shell = subprocess.run(
        ["sh", "-c", f'{exports}\nprintf "%s\\n" "$PREFECT_HOME" "$AWS_SECRET_ACCESS_KEY" "${{AWS_PROFILE-none}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    secret = environment.client_environment(settings)["AWS_SECRET_ACCESS_KEY"]
    assert len(secret) == 40
    assert shell.stdout.splitlines() == [f"{settings.state_dir}/prefect", secret, "none"]


def test_services_do_not_inherit_other_systems_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "PREFECT_API_KEY", "MLFLOW_TRACKING_TOKEN", MARKER):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("NO_PROXY", "example.org")
    settings = ServiceSettings(state_dir=tmp_path / "state")
    for made in (
        environment.server_environment(settings),
        environment.worker_environment(settings),
        environment.object_store_environment(),
    ):
        assert "foreign" not in made.values()
        assert made["DO_NOT_TRACK"] == "1"
        assert made["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    worker = environment.worker_environment(settings)
    assert worker["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert int(worker["OMP_NUM_THREADS"]) >= 1
    assert worker["VITRINE_CHECKPOINTS"] == "s3://vitrine/checkpoints"
    assert "AWS_SECRET_ACCESS_KEY" not in environment.object_store_environment()
