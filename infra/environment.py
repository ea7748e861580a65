"""Environment variables: what a client needs to reach the services, what the services run with."""

import os
import shlex
import sys
from pathlib import Path

from infra.credentials import load_credentials
from infra.settings import DVC_BUCKET, HOST, MARKER, PROJECT_ROOT, REGION, ServiceSettings

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Nothing phones home, and no progress bar of a dozen small files fills a log."""

FOREIGN = ("AWS_", "MLFLOW_", "PREFECT_", MARKER)
"""Inherited variables with these beginnings are dropped from a service's environment: a key, profile
or address meant for another system must not change what runs here."""


def client_environment(settings: ServiceSettings) -> dict[str, str]:
    """What to add to a process's environment so that it uses the local services.

    Makes the credentials if there are none yet.

    Raises:
        InputError: the credentials file cannot be used.
    """
    keys = load_credentials(settings)
    return {
        **QUIET,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        # A token left over from another account would be signed into every request.
        "AWS_SESSION_TOKEN": "",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": settings.s3_url,
        "AWS_EC2_METADATA_DISABLED": "true",
        # Newer clients send checksums as trailers, which S3-compatible stores may refuse.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "NO_PROXY": _with_loopback("NO_PROXY"),
        "no_proxy": _with_loopback("no_proxy"),
        "PATH": _path(),
        "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_HOME": str(settings.state_dir / "prefect"),
        # Where a training on any machine finds the checkpoints of a killed one.
        "VITRINE_CHECKPOINTS": f"s3://{DVC_BUCKET}/checkpoints",
    }


def server_environment(settings: ServiceSettings) -> dict[str, str]:
    """The whole environment of MLflow's and Prefect's server."""
    return {
        **_inherited(),
        **client_environment(settings),
        # Its job runner takes seven more processes and 2 GB; nothing here uses it.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_SERVER_UI_API_URL": settings.prefect_api_url,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def worker_environment(settings: ServiceSettings) -> dict[str, str]:
    """The whole environment of a Prefect worker, which its flow runs and their stages inherit."""
    return {
        **_inherited(),
        **client_environment(settings),
        # Each look writes to the server's database; with SQLite, two workers that looked every second once
        # locked it for a minute.
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        # Read by the pull step of prefect.yaml. For workers alone: where `prefect deploy` finds the
        # variable, it writes this machine's path into the deployment.
        "WORKSPACE": str(PROJECT_ROOT),
        # Two models train at the same time; more threads than cores slow both down.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
    }


def object_store_environment() -> dict[str, str]:
    """The whole environment of the object store: it reads its keys from a file."""
    return {**_inherited(), **QUIET}


def shell_exports(settings: ServiceSettings) -> str:
    """Lines for a shell's `eval`."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in client_environment(settings).items()]
    # These would win over the keys and the address above.
    return "\n".join(["unset AWS_PROFILE AWS_ENDPOINT_URL_S3 PREFECT_API_KEY PREFECT_PROFILE", *lines])


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def _with_loopback(name: str) -> str:
    """The variable with loopback added: a proxy cannot reach this machine's own services."""
    given = [part for part in os.environ.get(name, "").split(",") if part]
    return ",".join(dict.fromkeys([*given, HOST, "localhost"]))


def _path() -> str:
    """PATH with the virtual environment's programs first."""
    given = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part]
    return os.pathsep.join(dict.fromkeys([str(Path(sys.executable).parent), *given]))
