"""Where the local services live: ports, state directory, patience.

Every setting is an environment variable with the prefix VITRINE_ (VITRINE_MLFLOW_PORT=5001), or
a line of that form in the file `.env` in the project's root.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from components.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
ENV_PREFIX = "VITRINE_"
MARKER = "VITRINE_SERVICE"
"""Variable in the environment of everything that a service has started, see infra/processes.py."""

ENV_FILE = PROJECT_ROOT / ".env"

HOST = "127.0.0.1"
"""The only address that anything listens on: the services trust whoever reaches them."""

DVC_BUCKET = "vitrine"
MLFLOW_BUCKET = "mlflow"
BUCKETS = (DVC_BUCKET, MLFLOW_BUCKET)
REGION = "us-east-1"
"""Part of every S3 signature; the object store itself has no regions."""

WORK_POOLS = ("cpu", "gpu")

OTHERS = (
    "VITRINE_CACHE",
    "VITRINE_CHECKPOINTS",
    "VITRINE_CLOTHING",
    "VITRINE_FASHION_MNIST",
    "VITRINE_NOTIFY",
    "VITRINE_REQUIRE_SIGNATURE",
    "VITRINE_SIGNING_KEY",
    "VITRINE_USER",
)
"""Variables of other parts of the project: folders of downloads and data sets, places of checkpoints and keys."""

Port = Annotated[int, Field(ge=1, le=65535)]


class ServiceSettings(BaseSettings):
    """Settings of the local services, checked."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=ENV_FILE, frozen=True, extra="ignore", allow_inf_nan=False
    )

    state_dir: Path = Field(
        default=Path(".vitrine"),
        validate_default=True,
        description="databases, objects, credentials and logs; relative: below the project's root",
    )
    s3_port: Port = Field(default=8333, description="object store, S3 API")
    s3_grpc_port: Port = Field(default=18333, description="object store, S3 gateway, gRPC")
    s3_master_port: Port = Field(default=9333, description="object store, master")
    s3_master_grpc_port: Port = Field(default=19333, description="object store, master, gRPC")
    s3_volume_port: Port = Field(default=9334, description="object store, volumes")
    s3_volume_grpc_port: Port = Field(default=19334, description="object store, volumes, gRPC")
    s3_filer_port: Port = Field(default=9335, description="object store, names of objects")
    s3_filer_grpc_port: Port = Field(default=19335, description="object store, names of objects, gRPC")
    mlflow_port: Port = Field(default=5000, description="MLflow, API and pages")
    prefect_port: Port = Field(default=4200, description="Prefect server, API and pages")
    start_timeout: float = Field(default=120, gt=0, description="seconds in which a service must answer")
    stop_timeout: float = Field(
        default=20, gt=0, description="seconds between SIGTERM and SIGKILL; the object store takes up to 16"
    )

    @field_validator("state_dir")
    @classmethod
    def _below_the_root(cls, value: Path) -> Path:
        return (PROJECT_ROOT / value.expanduser()).resolve()

    @model_validator(mode="after")
    def _one_port_each(self) -> Self:
        taken: dict[int, str] = {}
        for name, port in self.ports().items():
            if port in taken:
                raise ValueError(f"{variable(name)} and {variable(taken[port])} are both {port}; each needs its own")
            taken[port] = name
        return self

    def ports(self) -> dict[str, int]:
        """All ports by the name of their setting."""
        return {name: getattr(self, name) for name in type(self).model_fields if name.endswith("_port")}

    @property
    def s3_url(self) -> str:
        return f"http://{HOST}:{self.s3_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def prefect_url(self) -> str:
        """The pages; the API is below /api."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def prefect_api_url(self) -> str:
        return f"{self.prefect_url}/api"


def variable(setting: str) -> str:
    """The environment variable that sets it."""
    return f"{ENV_PREFIX}{setting}".upper()


def load_service_settings(env_file: Path = ENV_FILE) -> ServiceSettings:
    """Reads the environment and `.env`.

    Raises:
        InputError: a setting is unknown, of the wrong type, out of range, or two ports are the same.
    """
    lines = [
        f"{name}: unknown setting; known are {', '.join(variable(known) for known in ServiceSettings.model_fields)}"
        for name in _unknown([*os.environ, *dotenv_values(env_file)])
    ]
    if not lines:
        try:
            return ServiceSettings(_env_file=env_file)
        except ValidationError as error:
            lines = [_describe(entry["loc"], entry["msg"], entry["input"]) for entry in error.errors()]
    where = f"settings of the services cannot be used; mend them in the environment or in {env_file}:"
    raise InputError("\n".join([where, *(f"  {line}" for line in lines)]))


def _unknown(names: Iterable[str]) -> list[str]:
    known = {variable(setting) for setting in ServiceSettings.model_fields} | {MARKER, *OTHERS}
    return sorted({name for name in names if name.startswith(ENV_PREFIX)} - known)


def _describe(loc: tuple[int | str, ...], message: str, found: object) -> str:
    if not loc:
        return message.removeprefix("Value error, ")
    return f"{variable(str(loc[0]))}: found {found!r}; {message[0].lower()}{message[1:]}"
