"""The local services: started, asked, refused, killed and ended, all for real."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil
import pytest
from botocore.exceptions import ClientError

from components.errors import InputError
from infra import probes, processes
from infra.credentials import load_credentials
from infra.health import check_services
from infra.services import MLFLOW, OBJECT_STORE, service_names
from infra.settings import DVC_BUCKET, HOST, MLFLOW_BUCKET, PROJECT_ROOT, ServiceSettings
from infra.status import status
from infra.up import up


class Services(Protocol):
    settings: ServiceSettings
    environment: dict[str, str]
    state_dir: Path

    def for_infra(self) -> dict[str, str]: ...


def infra(services: Services, *arguments: str) -> subprocess.Popen[str]:
    """`python -m infra`, as the Makefile calls it."""
    return subprocess.Popen(
        [sys.executable, "-m", "infra", *arguments],
        env={**os.environ, **services.for_infra()},
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def mains(settings: ServiceSettings) -> dict[str, int]:
    """Pid of each running service."""
    return {entry.name: entry.pid for entry in status(settings) if entry.pid is not None}


def run(code: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_up_changes_nothing(services: Services) -> None:
    before = mains(services.settings)
    assert sorted(before) == sorted(service_names())
    said: list[str] = []
    up(services.settings, say=said.append)
    assert mains(services.settings) == before
    assert [line for line in said if "already running" in line] == said


def test_status_says_all_that_runs(services: Services) -> None:
    asked = infra(services, "status")
    table = asked.communicate()[0]
    assert asked.returncode == 0, table
    lines = table.splitlines()
    assert len(lines) == 1 + len(service_names())
    for line, name in zip(lines[1:], service_names(), strict=True):
        assert line.startswith(f"{name} ")
        assert "  running  " in line
        assert line.endswith(f"{services.state_dir}/logs/{name}.log")


def test_objects_come_back_as_they_went(services: Services) -> None:
    client = probes.object_store_client(services.settings, services.environment)
    content = os.urandom(300_000)
    client.put_object(Bucket=DVC_BUCKET, Key="tests/bytes", Body=content)
    assert client.get_object(Bucket=DVC_BUCKET, Key="tests/bytes")["Body"].read() == content


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "WRONG"}, "InvalidAccessKeyId"),
    ],
)
def test_wrong_keys_are_refused(services: Services, changed: dict[str, str], code: str) -> None:
    environment = {**services.environment, **changed}
    with pytest.raises(ClientError) as caught:
        probes.object_store_client(services.settings, environment).list_buckets()
    assert caught.value.response["Error"]["Code"] == code
    with pytest.raises(InputError, match=rf"{OBJECT_STORE} .*refuses our credentials.*{code}") as explained:
        check_services(services.settings, environment)
    assert str(services.state_dir / "credentials.env") in str(explained.value)


def test_nobody_reads_without_keys(services: Services) -> None:
    client = probes.object_store_client(services.settings, services.environment)
    client.put_object(Bucket=DVC_BUCKET, Key="tests/secret", Body=b"secret")
    settings = services.settings
    assert httpx.get(f"{settings.s3_url}/{DVC_BUCKET}/tests/secret").status_code == httpx.codes.FORBIDDEN
    filer = f"http://{HOST}:{settings.s3_filer_port}/buckets/{DVC_BUCKET}/tests/secret"
    assert httpx.get(filer).status_code == httpx.codes.NOT_FOUND


def test_secrets_stay_in_files_of_their_owner(services: Services) -> None:
    assert oct((services.state_dir / "credentials.env").stat().st_mode & 0o777) == "0o600"
    assert oct((services.state_dir / "s3.json").stat().st_mode & 0o777) == "0o600"
    assert oct(services.state_dir.stat().st_mode & 0o777) == "0o700"
    secret = load_credentials(services.settings).secret_key
    found = [p for of_name in processes.find(services.state_dir).values() for p in of_name]
    assert len(found) >= len(service_names())
    assert not [p for p in found if secret in " ".join(p.cmdline())]
    logs = list((services.state_dir / "logs").iterdir())
    assert len(logs) >= len(service_names())
    assert not [log for log in logs if secret.encode() in log.read_bytes()]


def test_everything_listens_on_loopback_alone(services: Services) -> None:
    pids = {p.pid for of_name in processes.find(services.state_dir).values() for p in of_name}
    connections = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in pids]
    listening = {(c.laddr[0], c.laddr[1]) for c in connections if c.laddr}
    assert {HOST} == {ip for ip, _ in listening}
    # A Prefect worker adds one of its own.
    assert set(services.settings.ports().values()) <= {port for _, port in listening}


def test_mlflow_keeps_artifacts_for_clients_without_keys(services: Services, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a garment")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"MLFLOW_TRACKING_URI": services.settings.mlflow_url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    code = f"""
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.25)
    mlflow.log_artifact({str(tmp_path / "note.txt")!r})
print(mlflow.get_run(run.info.run_id).data.metrics["loss"])
print(mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt"))
print(run.info.run_id)
"""
    loss, text, run_id = [line for line in run(code, environment).splitlines() if " at: " not in line]
    assert (loss, text) == ("0.25", "a garment")
    client = probes.object_store_client(services.settings, services.environment)
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=MLFLOW_BUCKET)["Contents"]]
    assert [key for key in keys if run_id in key and key.endswith("note.txt")]


def test_dvc_finds_the_object_store_in_the_environment(services: Services, tmp_path: Path) -> None:
    """The project's own remote names no address: AWS_ENDPOINT_URL gives it."""
    environment = {**os.environ, **services.environment}

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    dvc("init", "--no-scm")
    (tmp_path / ".dvc" / "config").write_text((PROJECT_ROOT / ".dvc" / "config").read_text())
    dvc("config", "core.no_scm", "true")
    (tmp_path / "data.txt").write_text("pushed and pulled")
    dvc("add", "data.txt")
    dvc("push")
    (tmp_path / "data.txt").unlink()
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    dvc("pull")
    assert (tmp_path / "data.txt").read_text() == "pushed and pulled"


def prefect(services: Services, path: str, content: Any) -> Any:
    answer = httpx.post(f"{services.settings.prefect_api_url}/{path}", json=content)
    answer.raise_for_status()
    return answer.json()


def test_a_cron_schedule_creates_its_runs(services: Services) -> None:
    flow = prefect(services, "flows/", {"name": "nightly-test"})
    schedule = {"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}, "active": True}
    # Without a work pool, so that no worker takes them.
    deployment = prefect(services, "deployments/", {"name": "nightly", "flow_id": flow["id"], "schedules": [schedule]})
    wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    deadline = time.monotonic() + 60
    while not (runs := prefect(services, "flow_runs/filter", wanted)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert runs, "the scheduler created no runs"
    assert {entry["state_type"] for entry in runs} == {"SCHEDULED"}
    assert {entry["expected_start_time"][11:19] for entry in runs} == {"02:00:00"}


def test_a_killed_server_is_named_and_alone_started_again(services: Services) -> None:
    before = mains(services.settings)
    check_services(services.settings)
    psutil.Process(before[MLFLOW]).kill()
    for orphan in processes.find(services.state_dir)[MLFLOW]:
        if orphan.pid != before[MLFLOW]:
            orphan.kill()
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        check_services(services.settings)
    assert time.monotonic() - begin < 5
    message = str(caught.value)
    for part in (MLFLOW, services.settings.mlflow_url, f"{services.state_dir}/logs/{MLFLOW}.log", "make up"):
        assert part in message
    assert OBJECT_STORE + " (" not in message
    asked = infra(services, "status")
    table = asked.communicate()[0]
    assert asked.returncode == 3, table
    up(services.settings)
    after = mains(services.settings)
    assert {name for name in after if after[name] != before[name]} == {MLFLOW}
    check_services(services.settings)


def test_two_ups_at_once_start_one_worker(services: Services) -> None:
    """Also what the killed one has left in a session of its own is ended, and nothing else."""
    worker = "worker-cpu"
    before = mains(services.settings)
    mark = processes.marker(services.state_dir, worker)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    log = services.state_dir / "logs" / "orphan.log"
    orphan = processes.launch(sleep, os.environ, mark, log, services.state_dir)
    psutil.Process(before[worker]).kill()
    with pytest.raises(InputError, match=rf"{worker} \(work pool cpu\): not running"):
        check_services(services.settings)
    both = [infra(services, "up"), infra(services, "up")]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(f"{worker}: already running" in output for output in outputs) == [False, True]
    assert not processes.alive(orphan)
    after = mains(services.settings)
    assert {name for name in after if after[name] != before[name]} == {worker}
    assert len(processes.find(services.state_dir)[worker]) == 1


def test_other_settings_than_those_it_runs_with_are_refused(services: Services) -> None:
    moved = services.settings.model_copy(update={"mlflow_port": services.settings.mlflow_port + 1})
    with pytest.raises(InputError, match=f"{MLFLOW} runs with other settings .*make down"):
        up(moved)
