"""Questions that only a working service answers. Each returns the problem, or None."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

import boto3
import botocore.session
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.settings import BUCKETS, REGION, ServiceSettings

TIMEOUT = 2.0
"""Seconds: all are on this machine."""


@cache
def _session() -> Any:
    """Without the profile that the shell may have chosen: it belongs to another system."""
    return boto3.session.Session(
        botocore_session=botocore.session.Session(session_vars={"profile": (None, [], None, None)})
    )


def object_store_client(settings: ServiceSettings, environment: Mapping[str, str]) -> Any:
    """S3 client with the keys of `environment`, one try per request, no proxy."""
    return _session().client(
        "s3",
        endpoint_url=settings.s3_url,
        region_name=REGION,
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID", ""),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY", ""),
        aws_session_token=environment.get("AWS_SESSION_TOKEN") or None,
        config=Config(
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            retries={"total_max_attempts": 1},
            proxies={},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
        ),
    )


def object_store(settings: ServiceSettings, environment: Mapping[str, str]) -> str | None:
    """A signed request: the keys are right and the buckets are there."""
    try:
        listed = object_store_client(settings, environment).list_buckets()["Buckets"]
    except ClientError as error:
        details = error.response["Error"]
        return f"refuses our credentials or fails: {details['Code']}: {details['Message']}"
    except BotoCoreError as error:
        return f"no answer: {error}"
    missing = set(BUCKETS) - {bucket["Name"] for bucket in listed}
    return f"bucket(s) {sorted(missing)} are missing" if missing else None


def object_store_prepared(settings: ServiceSettings, environment: Mapping[str, str]) -> str | None:
    """Makes the buckets that are missing, then writes, reads and deletes an object.

    The store answers requests for buckets before it can read or write the first object.
    """
    client = object_store_client(settings, environment)
    try:
        present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for bucket in BUCKETS:
            if bucket not in present:
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key=".ready", Body=b"ready")
            client.get_object(Bucket=bucket, Key=".ready")["Body"].read()
            client.delete_object(Bucket=bucket, Key=".ready")
    except (ClientError, BotoCoreError) as error:
        return str(error)
    return None


def mlflow(settings: ServiceSettings) -> str | None:
    """A request for data: /health says 200 even where every other request is refused."""
    return _asked("POST", f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search", {"max_results": 1})


def prefect(settings: ServiceSettings) -> str | None:
    """Health, then a read from the database."""
    return _asked("GET", f"{settings.prefect_api_url}/health") or _asked(
        "POST", f"{settings.prefect_api_url}/work_pools/filter", {"limit": 1}
    )


def worker(settings: ServiceSettings, pool: str, since: float = 0.0) -> str | None:
    """The server has heard from the pool's worker.

    Args:
        since: a sign of life from before this time does not count; seconds since 1970.
    """
    url = f"{settings.prefect_api_url}/work_pools/{pool}/workers/filter"
    try:
        answer = _request("POST", url, {})
    except httpx.HTTPError as error:
        return f"the Prefect server does not answer: {_short(error)}"
    if answer.status_code == httpx.codes.NOT_FOUND:
        return f"work pool '{pool}' is not there yet"
    if answer.is_error:
        return f"{url}: status {answer.status_code}"
    online = [w for w in answer.json() if w["status"] == "ONLINE" and _seconds(w["last_heartbeat_time"]) >= since]
    return None if online else f"no worker of the pool '{pool}' is online"


def _asked(method: str, url: str, content: Any = None) -> str | None:
    try:
        answer = _request(method, url, content)
    except httpx.HTTPError as error:
        return f"no answer: {_short(error)}"
    return f"{url}: status {answer.status_code}: {answer.text[:200]}" if answer.is_error else None


def _request(method: str, url: str, content: Any) -> httpx.Response:
    # Plain HTTP: loading the certificates, as a client does by default, would take most of the time.
    with httpx.Client(trust_env=False, verify=False, timeout=TIMEOUT) as client:
        return client.request(method, url, json=content)


def _short(error: Exception) -> str:
    return str(error) or type(error).__name__


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
