"""Real services on free ports in a temporary folder: one set per process of the test run.

Some tests kill services, so processes of pytest-xdist do not share them. `--dist loadfile` keeps a
file's tests in one process (`loadgroup` does not group: pytest-xdist 3.8 with pytest 9.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import processes
from infra.down import down
from infra.environment import client_environment
from infra.settings import ServiceSettings
from infra.up import up
from tests.services.ports import free_settings


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


@pytest.fixture
def own_settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings for a test that starts services of its own; what it leaves running is taken down."""
    settings = free_settings(tmp_path / "state", stop_timeout=2)
    yield settings
    down(settings)
