"""Ends everything that was started for a state directory. Data stays."""

from infra import processes
from infra.processes import Say
from infra.services import service_names, worker_name
from infra.settings import WORK_POOLS, ServiceSettings
from infra.up import alone


def down(settings: ServiceSettings, say: Say = print) -> None:
    """Ends the workers and all their descendants, then the servers. Harmless where nothing runs."""
    if not settings.state_dir.exists():
        say("nothing runs")
        return
    workers = [worker_name(pool) for pool in WORK_POOLS]
    with alone(settings, say):
        # Flow runs report their end to servers that still answer.
        ended = processes.end(settings.state_dir, workers, settings.stop_timeout, say)
        servers = [name for name in reversed(service_names()) if name not in workers]
        ended += processes.end(settings.state_dir, servers, settings.stop_timeout, say)
        # Marked by an earlier version under another name.
        others = sorted(processes.find(settings.state_dir))
        ended += processes.end(settings.state_dir, others, settings.stop_timeout, say)
    say(f"stopped; the data stays in {settings.state_dir}" if ended else "nothing runs")
