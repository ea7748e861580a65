"""Starts that go wrong or are interrupted, and what `down` leaves: each test has services of its own."""

import os
import socket

import pytest

from components.errors import InputError
from infra import probes, processes
from infra.down import down
from infra.environment import client_environment
from infra.health import check_services
from infra.services import MLFLOW, OBJECT_STORE, local_services
from infra.settings import DVC_BUCKET, HOST, ServiceSettings
from infra.status import status
from infra.up import up


def test_a_port_in_use_is_explained(own_settings: ServiceSettings) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, own_settings.mlflow_port))
        taken.listen()
        with pytest.raises(InputError) as caught:
            up(own_settings, only=[OBJECT_STORE, MLFLOW])
    for part in (f"port {own_settings.mlflow_port} ", f"pid {os.getpid()} ", "VITRINE_MLFLOW_PORT"):
        assert part in str(caught.value)
    assert processes.find(own_settings.state_dir) == {}


def test_a_failed_start_shows_its_log_and_leaves_the_rest(own_settings: ServiceSettings) -> None:
    database = own_settings.state_dir / MLFLOW / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_text("this is no database " * 50)
    with pytest.raises(InputError, match=f"{MLFLOW} did not start") as caught:
        up(own_settings, only=[OBJECT_STORE, MLFLOW])
    assert "file is not a database" in str(caught.value)
    assert [entry.name for entry in status(own_settings) if entry.pid is not None] == [OBJECT_STORE]


def test_a_start_that_was_interrupted_is_finished(own_settings: ServiceSettings) -> None:
    service = local_services(own_settings)[0]
    assert service.before
    service.folder.mkdir(parents=True)
    service.before()
    mark = processes.marker(own_settings.state_dir, service.name)
    processes.launch(service.command, service.environment, mark, service.log, service.folder)
    said: list[str] = []
    up(own_settings, only=[OBJECT_STORE], say=said.append)
    assert "already running" in said[0]
    check_services(own_settings, only=[OBJECT_STORE])


def test_objects_outlive_down_and_up(own_settings: ServiceSettings) -> None:
    up(own_settings, only=[OBJECT_STORE])
    client = probes.object_store_client(own_settings, client_environment(own_settings))
    client.put_object(Bucket=DVC_BUCKET, Key="tests/kept", Body=b"kept")
    said: list[str] = []
    # Its patience is shorter than the store takes: this is also the way by SIGKILL.
    down(own_settings, say=said.append)
    assert "killed" in "\n".join(said)
    assert processes.find(own_settings.state_dir) == {}
    up(own_settings, only=[OBJECT_STORE])
    assert client.get_object(Bucket=DVC_BUCKET, Key="tests/kept")["Body"].read() == b"kept"


def test_down_is_harmless_where_nothing_runs(own_settings: ServiceSettings) -> None:
    said: list[str] = []
    down(own_settings, say=said.append)
    assert said == ["nothing runs"]
    assert not own_settings.state_dir.exists()
