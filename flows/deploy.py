"""Makes the deployments of prefect.yaml, if they are not those that the server has."""

import asyncio
import hashlib
from asyncio.subprocess import PIPE, STDOUT

from prefect.variables import Variable

from components.errors import InputError
from components.settings import FlowSettings
from flows.dag import ROOT

DIGEST = "vitrine_deployments"
"""Prefect variable with the digest of what was deployed: kept by the server that keeps the deployments."""

SOURCES = ("prefect.yaml", "flows/promote.py", "flows/retrain.py", "flows/run_stage.py")
"""What deployments are made from: a flow's parameters are part of its deployment."""


async def deploy_if_changed(settings: FlowSettings) -> None:
    """Calls `prefect deploy --all` unless nothing that it reads has changed: it takes seconds.

    Raises:
        InputError: the command failed; the message has what it printed.
    """
    content = b"".join((ROOT / name).read_bytes() for name in SOURCES) + settings.model_dump_json().encode()
    digest = hashlib.sha256(content).hexdigest()
    if await Variable.aget(DIGEST, default="") == digest:
        return
    print("deploying the flows", flush=True)
    command = ("prefect", "--no-prompt", "deploy", "--all")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=STDOUT)
    output, _ = await process.communicate()
    if process.returncode:
        raise InputError(
            f"`{' '.join(command)}` ended with status {process.returncode}; its schedule is flow.nightly_cron of "
            f"params.yaml, found {settings.nightly_cron!r}:\n{output.decode()}"
        )
    await Variable.aset(DIGEST, digest, overwrite=True)
