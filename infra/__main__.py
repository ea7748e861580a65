"""Local services: python -m infra {up,down,status,env}."""

import argparse
import sys
from collections.abc import Sequence

from components.stage import explained_errors
from infra.down import down
from infra.environment import shell_exports
from infra.services import service_names
from infra.settings import ServiceSettings, load_service_settings
from infra.status import status, table
from infra.up import up

NOT_ALL_RUN = 3
"""Exit status of `status` where a service is down or does not answer."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    with explained_errors():
        return _run(arguments, load_service_settings())
    raise AssertionError("explained_errors() ends the process")


def _run(arguments: argparse.Namespace, settings: ServiceSettings) -> int:
    if arguments.verb == "up":
        up(settings, arguments.services or None)
        print(f"MLflow: {settings.mlflow_url}\nPrefect: {settings.prefect_url}")
    elif arguments.verb == "down":
        down(settings)
    elif arguments.verb == "env":
        print(shell_exports(settings))
    else:
        statuses = status(settings)
        print(table(statuses))
        return 0 if all(entry.state == "running" for entry in statuses) else NOT_ALL_RUN
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra", description="The local services.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("up", help="start what does not run")
    start.add_argument("services", nargs="*", help=f"some of {', '.join(service_names())}; none: all")
    verbs.add_parser("down", help="end everything; data stays")
    verbs.add_parser("status", help=f"what runs; exit status {NOT_ALL_RUN} if something does not")
    verbs.add_parser("env", help='exports for a shell: eval "$(make -s env)"')
    return parser


if __name__ == "__main__":
    sys.exit(main())
