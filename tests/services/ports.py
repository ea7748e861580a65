"""Settings for services that meet no other ones on this machine."""

import random
import socket
from pathlib import Path

from infra.settings import HOST, ServiceSettings


def free_settings(state_dir: Path, **settings: float) -> ServiceSettings:
    """Settings with ports that nobody listens on."""
    names = ServiceSettings().ports()
    ports: list[int] = []
    # Below the range from which the system takes ports for outgoing connections.
    for port in random.sample(range(20_000, 32_000), 2_000):
        with socket.socket() as probe:
            if len(ports) < len(names) and probe.connect_ex((HOST, port)) != 0:
                ports.append(port)
    return ServiceSettings.model_validate({"state_dir": state_dir, **dict(zip(names, ports, strict=True)), **settings})
