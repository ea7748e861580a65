"""What `make up`, `make status` and the like say without any service running."""

from pathlib import Path

import pytest

from components.errors import InputError
from infra import __main__ as cli
from infra.health import check_services
from infra.services import service_names
from infra.settings import ServiceSettings
from infra.status import status, table
from infra.up import up


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    # Ports of the reserved range: nobody answers there.
    names = ServiceSettings().ports()
    ports = dict(zip(names, range(11, 11 + len(names)), strict=True))
    return ServiceSettings.model_validate({"state_dir": tmp_path / "state", **ports})


def test_status_of_nothing(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load_service_settings", lambda: settings)
    assert cli.main(["status"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["SERVICE", *service_names()]
    column = lines[0].index("STATE")
    assert {line[column:].startswith("not running  ") for line in lines[1:]} == {True}


def test_the_table_says_where_and_what(settings: ServiceSettings) -> None:
    text = table(status(settings))
    assert settings.mlflow_url in text
    assert f"{settings.state_dir}/logs/prefect.log" in text


def test_services_that_are_down_are_all_named(settings: ServiceSettings) -> None:
    with pytest.raises(InputError) as caught:
        check_services(settings)
    for name in service_names():
        assert f"{name} (" in str(caught.value)
    assert "make up" in str(caught.value)


def test_only_what_is_asked_for_is_checked(settings: ServiceSettings) -> None:
    with pytest.raises(InputError) as caught:
        check_services(settings, only=["mlflow"])
    assert "mlflow (" in str(caught.value)
    assert "prefect (" not in str(caught.value)


def test_an_unknown_service_is_refused(settings: ServiceSettings) -> None:
    with pytest.raises(InputError, match=r"no such service.*'mlfow'.*object-store"):
        up(settings, only=["mlfow"])


def test_bad_settings_end_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITRINE_MLFLOW_PORT", "none")
    with pytest.raises(SystemExit) as ended:
        cli.main(["status"])
    assert ended.value.code == 2
    assert "VITRINE_MLFLOW_PORT" in capsys.readouterr().err
