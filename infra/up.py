"""Starts what does not run yet, and waits until it answers."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from components.errors import InputError
from infra import processes
from infra.credentials import make_state_dir
from infra.ports import check_free
from infra.processes import Say
from infra.services import Service, local_services, service_names
from infra.settings import ServiceSettings

LOCK_PATIENCE = 600.0
"""Seconds to wait for somebody else's `up` or `down`."""


def up(settings: ServiceSettings, only: Sequence[str] | None = None, say: Say = print) -> None:
    """Starts the services that do not run. Harmless where all do.

    Args:
        only: names of services; None: all.

    Raises:
        InputError: a port is in use, a service ends or does not answer in time (with the tail of its
            log; what runs stays), or one runs with other settings.
    """
    with alone(settings, say):
        wanted = _chosen(local_services(settings), only)
        running = _running(settings, wanted)
        for service in wanted:
            if service.name in running:
                say(f"{service.name}: already running, pid {running[service.name].pid}")
        stopped = [service for service in wanted if service.name not in running]
        # What a killed service has left behind holds its ports, or goes on training for nobody.
        processes.end(settings.state_dir, [s.name for s in stopped], settings.stop_timeout, say)
        check_free({name: port for service in stopped for name, port in service.ports.items()})
        for workers in (False, True):
            _start(settings, [s for s in stopped if s.needs_servers is workers], say)
            # An `up` that was interrupted may have started them and not waited.
            _all_answer(settings, [s for s in wanted if s.name in running and s.needs_servers is workers])


@contextmanager
def alone(settings: ServiceSettings, say: Say = print) -> Iterator[None]:
    """One `up` or `down` at a time per state directory."""
    lock = FileLock(make_state_dir(settings) / "services.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another `make up` or `make down` to end")
        try:
            lock.acquire(timeout=LOCK_PATIENCE)
        except Timeout:
            raise InputError(
                f"another `make up` or `make down` holds {lock.lock_file} for {LOCK_PATIENCE:.0f} s; end it"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _chosen(services: list[Service], only: Sequence[str] | None) -> list[Service]:
    unknown = set(only or ()) - set(service_names())
    if unknown:
        raise InputError(f"no such service: {sorted(unknown)}; choose from {service_names()}")
    return [service for service in services if only is None or service.name in only]


def _running(settings: ServiceSettings, services: Sequence[Service]) -> dict[str, psutil.Process]:
    """Main processes by service.

    Raises:
        InputError: one listens elsewhere than the settings say.
    """
    found = processes.find(settings.state_dir)
    running = {}
    for service in services:
        of_name = found.get(service.name, [])
        process = processes.main_process(of_name, service.command)
        if process:
            running[service.name] = process
        elif other := processes.main_process(of_name, service.command, whole=False):
            raise InputError(
                f"{service.name} runs with other settings (pid {other.pid}); run `make down`, then `make up`"
            )
    return running


def _start(settings: ServiceSettings, services: Sequence[Service], say: Say) -> None:
    """Starts them side by side; reports all failures together, after the others have started."""
    if not services:
        return
    with ThreadPoolExecutor(len(services)) as pool:
        problems = [p for p in pool.map(lambda s: _start_one(settings, s, say), services) if p]
    if problems:
        raise InputError("\n".join(problems))


def _start_one(settings: ServiceSettings, service: Service, say: Say) -> str | None:
    """Starts one service and waits for it. Returns the problem, None if there is none."""
    begin = time.monotonic()
    if problem := _prepare(settings, service):
        return problem
    mark = processes.marker(settings.state_dir, service.name)
    since = time.time()
    process = processes.launch(service.command, service.environment, mark, service.log, service.folder)
    problem = processes.wait_for(lambda: service.ready(since), settings.start_timeout, lambda: processes.alive(process))
    if problem:
        return _failure(service, problem)
    if service.database is not None:
        _version_file(service).write_text(service.version, encoding="utf-8")
    say(f"{service.name}: ready after {time.monotonic() - begin:.1f} s, {service.address}")
    return None


def _prepare(settings: ServiceSettings, service: Service) -> str | None:
    """What must come before the start. Returns the problem, None if there is none."""
    service.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if service.before:
        service.before()
    if service.database is None or not service.database.exists() or _made_by(service) == service.version:
        return None
    mark = processes.marker(settings.state_dir, service.name)
    place = (service.log, service.folder)
    patience = settings.start_timeout
    try:
        status = processes.run(service.upgrade, service.environment, mark, *place, patience)
    except subprocess.TimeoutExpired:
        return _failure(service, f"bringing {service.database} up to date took more than {patience:g} s")
    if status:
        return _failure(service, f"bringing {service.database} up to date failed with status {status}")
    return None


def _version_file(service: Service) -> Path:
    return service.folder / "version"


def _made_by(service: Service) -> str | None:
    """The version that last ran on the database."""
    file = _version_file(service)
    return file.read_text(encoding="utf-8") if file.exists() else None


def _all_answer(settings: ServiceSettings, services: Sequence[Service]) -> None:
    for service in services:
        problem = processes.wait_for(partial(service.ready, 0.0), settings.start_timeout, lambda: True)
        if problem:
            raise InputError(_failure(service, problem) + "\nrun `make down`, then `make up`")


def _failure(service: Service, problem: str) -> str:
    return (
        f"{service.name} did not start: {problem}\n"
        f"the end of {service.log}:\n{processes.tail(service.log)}\n"
        "what runs stays; mend the cause and run `make up` again"
    )
