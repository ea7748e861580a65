"""What runs, since when, where, and where it writes its log."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import psutil

from infra import processes
from infra.services import Service, local_services
from infra.settings import ServiceSettings

COLUMNS = ("SERVICE", "STATE", "PID", "SINCE", "ADDRESS", "LOG")


@dataclass(frozen=True)
class ServiceStatus:
    name: str
    pid: int | None
    since: datetime | None
    problem: str | None
    """None: it runs and answers."""
    address: str
    log: str

    @property
    def state(self) -> str:
        if self.pid is None:
            return "not running"
        return "no answer" if self.problem else "running"


def status(settings: ServiceSettings) -> list[ServiceStatus]:
    """Looks at every service, in the order in which they start; all are asked at the same time."""
    services = local_services(settings)
    found = processes.find(settings.state_dir)
    with ThreadPoolExecutor(len(services)) as pool:
        return list(pool.map(lambda service: _status(service, found.get(service.name, [])), services))


def table(statuses: Sequence[ServiceStatus]) -> str:
    """For people: aligned columns, one line per service."""
    rows = [COLUMNS, *(_row(entry) for entry in statuses)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _status(service: Service, found: Sequence[psutil.Process]) -> ServiceStatus:
    process = processes.main_process(found, service.command)
    since = datetime.fromtimestamp(process.create_time()) if process else None
    return ServiceStatus(
        name=service.name,
        pid=process.pid if process else None,
        since=since,
        problem=service.working() if process else "not running",
        address=service.address,
        log=str(service.log),
    )


def _row(entry: ServiceStatus) -> tuple[str, ...]:
    since = f"{entry.since:%Y-%m-%d %H:%M:%S}" if entry.since else "-"
    return entry.name, entry.state, str(entry.pid or "-"), since, entry.address, entry.log
