"""A look before a run: are the services there, and do they take our credentials?"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from components.errors import InputError
from infra import probes, processes
from infra.credentials import credentials_file
from infra.environment import client_environment
from infra.services import OBJECT_STORE, Service, local_services
from infra.settings import ServiceSettings


def check_services(
    settings: ServiceSettings,
    environment: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
) -> None:
    """Asks every service for something that only a working one answers. Takes under 2 s.

    Args:
        environment: where the object store's keys are taken from; None: the credentials file.
        only: names of services; None: all.

    Raises:
        InputError: names every service that is down or refuses the keys, its address, its log, and
            what to do.
    """
    keys = client_environment(settings) if environment is None else environment
    services = [s for s in local_services(settings) if only is None or s.name in only]
    found = processes.find(settings.state_dir)

    def problem(service: Service) -> str | None:
        if service.name == OBJECT_STORE:
            return probes.object_store(settings, keys)
        # The server goes on calling a killed worker online for 90 s.
        if service.needs_servers and not processes.main_process(found.get(service.name, []), service.command):
            return "not running"
        return service.working()

    with ThreadPoolExecutor(max(1, len(services))) as pool:
        problems = list(zip(services, pool.map(problem, services), strict=True))
    lines = [_line(service, text) for service, text in problems if text]
    if lines:
        raise InputError(
            "\n".join(lines) + f"\nrun `make up`, and `make status` to see the rest; the object store's keys are in "
            f"{credentials_file(settings)}, `make env` prints them for a shell"
        )


def _line(service: Service, problem: str) -> str:
    return f"{service.name} ({service.address}): {problem}; its log: {service.log}"
