"""Prints one setting of the section `flow` of params.yaml: prefect.yaml takes its schedule from there."""

import argparse
from collections.abc import Sequence

from components.settings import FlowSettings, load_settings
from components.stage import explained_errors


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(FlowSettings.model_fields))
    args = parser.parse_args(argv)
    with explained_errors():
        print(getattr(load_settings().flow, args.name))


if __name__ == "__main__":
    main()
