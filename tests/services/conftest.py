"""Real services on free ports in a temporary folder: one set per process of the test run.

Some tests kill services, so processes of pytest-xdist do not share them. `--dist loadfile` keeps a
file's tests in one process (`loadgroup` does not group: pytest-xdist 3.8 with pytest 9.2).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import probes, processes
from infra.down import down
from infra.environment import client_environment
from infra.services import OBJECT_STORE
from infra.settings import ServiceSettings
from infra.up import up
from tests.services.ports import free_settings

BUCKET = "bucket-of-a-shop"
"""In the store of the fixture `store`."""


@dataclass(frozen=True)
class Services:
    """Running services."""

    settings: ServiceSettings
    environment: dict[str, str]
    """What a client needs to reach them, PATH included: `env={**os.environ, **services.environment}`."""

    @property
    def state_dir(self) -> Path:
        return self.settings.state_dir

    def for_infra(self) -> dict[str, str]:
        """Variables with which `python -m infra` finds these services."""
        values = self.settings.model_dump(mode="json")
        return {f"VITRINE_{name.upper()}": str(value) for name, value in values.items()}


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """All services, ready; taken down at the end, which must leave no process behind."""
    # The data is thrown away: the object store need not end by itself.
    settings = free_settings(tmp_path_factory.mktemp("services") / "state", stop_timeout=6)
    try:
        up(settings)
        yield Services(settings, client_environment(settings))
    finally:
        down(settings)
    assert processes.find(settings.state_dir) == {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceSettings]:
    """The object store alone, with an empty bucket."""
    settings = free_settings(tmp_path_factory.mktemp("services") / "state", stop_timeout=6)
    try:
        up(settings, only=[OBJECT_STORE])
        probes.object_store_client(settings, client_environment(settings)).create_bucket(Bucket=BUCKET)
        yield settings
    finally:
        down(settings)


@pytest.fixture
def store_environment(store: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables that a process needs to reach that store, this one among them, which has no others for AWS."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    found = {
        name: value
        for name, value in client_environment(store).items()
        if name.startswith("AWS_") or name.lower() == "no_proxy"
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def own_settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings for a test that starts services of its own; what it leaves running is taken down."""
    settings = free_settings(tmp_path / "state", stop_timeout=2)
    yield settings
    down(settings)
