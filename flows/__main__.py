"""Starts a retraining and follows it: `python -m flows run`."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import Any

from components.check import check_params
from components.errors import InputError
from components.revision import read_revision
from components.stage import explained_errors
from infra.health import check_services
from infra.settings import load_service_settings


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """NAME=JSON pairs as a dictionary."""
    parameters = {}
    for pair in given:
        name, _, value = pair.partition("=")
        try:
            parameters[name] = json.loads(value)
        except json.JSONDecodeError:
            raise InputError(f"'{pair}': expected NAME=JSON, allow_uncommitted=false for instance") from None
    return parameters


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="start retrain/manual and follow it to its end")
    run.add_argument(
        "parameters",
        nargs="*",
        metavar="NAME=JSON",
        help="parameters of the flow, allow_uncommitted=false for instance",
    )
    args = parser.parse_args(argv)
    with explained_errors():
        parameters = _parameters(args.parameters)
        settings = check_params()
        read_revision()
        services = load_service_settings()
        check_services(services)
        # Imported here: Prefect and MLflow take seconds, in which a slip in params.yaml can be told already.
        from flows.start import run_and_follow

        try:
            raise SystemExit(asyncio.run(run_and_follow(services, settings.flow, parameters)))
        except KeyboardInterrupt:
            raise SystemExit(130) from None


if __name__ == "__main__":
    main()
