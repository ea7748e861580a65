"""Ports that somebody else holds."""

import errno
import shlex
import socket
from collections.abc import Mapping

import psutil

from components.errors import InputError
from infra.settings import ENV_FILE, HOST, variable

COMMAND_LENGTH = 100
"""Characters of a command line that tell which program it is; some go on for a page."""


def check_free(ports: Mapping[str, int]) -> None:
    """Makes sure that the ports can be listened on.

    Args:
        ports: port by the name of its setting.

    Raises:
        InputError: some are in use, or not allowed; all are named, with their owners and settings.
    """
    problems = [problem for name, port in ports.items() if (problem := _problem(name, port))]
    if problems:
        raise InputError("\n".join(problems))


def _problem(setting: str, port: int) -> str | None:
    mend = f"choose another one with {variable(setting)}=<port> in the environment or in {ENV_FILE}"
    with socket.socket() as probe:
        # As servers do: ports of connections that have just been closed are free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} is in use by {_owner(port)}; end it, or {mend}"
            return f"port {port} cannot be listened on ({error.strerror}); {mend}"
    return None


def _owner(port: int) -> str:
    """Pid and command line of the process that listens on the port, as far as we may know."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        connections = []
    holders = [c for c in connections if c.laddr and c.laddr[1] == port and c.status == psutil.CONN_LISTEN]
    pid = next((c.pid for c in holders if c.pid), None)
    if pid is None:
        return "a process of another user"
    try:
        command = shlex.join(psutil.Process(pid).cmdline())
        return f"pid {pid} ({command[:COMMAND_LENGTH]}{'...' if len(command) > COMMAND_LENGTH else ''})"
    except psutil.Error:
        return f"pid {pid}"
