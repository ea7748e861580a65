"""vitrine: promotes registered models, takes them back, and tells who did what, when and why."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from mlflow.exceptions import MlflowException

from components import tracking
from components.errors import InputError
from components.memory import keep_freed_memory
from components.registry.describing import describe_verdict
from components.registry.entries import AnyEntry, Change, Judged, Overridden, Promoted
from components.registry.explained import explained
from components.registry.explaining import explain, history, told
from components.registry.promotion import Outcome, promote, rollback
from components.registry.refusals import RefusalError, shown
from components.registry.verdicts import MAX_DAYS, override
from components.revision import read_revision
from components.settings import PARAMS_FILE, load_settings
from components.stage import USER_ERROR, printable

REFUSED = 1
"""Exit status where the request was understood and refused."""

PREPARED, REPORTS = Path("data/prepared"), Path("reports")
"""What `dvc repro` leaves, in the project's folder."""

COLUMNS = ("#", "when", "what", "from", "to", "verdict", "override", "who", "why")


class _Parser(argparse.ArgumentParser):
    """Tells wrong usage as it tells everything else, in JSON if that was asked for."""

    def __init__(self, **options: Any) -> None:
        # With abbreviations `--js` would mean `--json`, unknown to whoever tells an error.
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 0: done; 1: refused, the message says why; 2: wrong usage, or MLflow cannot be used."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser().parse_args(words)
        if note := tracking.require_store():
            print(f"note: {note}", file=sys.stderr)
        args.command(args)
    except RefusalError as error:
        _fail("--json" in words, REFUSED, {"code": error.code, "message": str(error), **error.facts})
    except InputError as error:
        _fail("--json" in words, USER_ERROR, {"code": "UNUSABLE", "message": str(error)})
    except MlflowException as error:
        message = f"MLflow answered: {error}; run the same command again, what it had begun is finished once"
        _fail("--json" in words, USER_ERROR, {"code": "MLFLOW", "message": message})


def _fail(as_json: bool, status: int, error: dict[str, Any]) -> NoReturn:
    if as_json:
        print(json.dumps({"error": error}, ensure_ascii=False))
    else:
        said = "\n".join(printable(line) for line in error["message"].split("\n"))
        print(f"error: {error['code']}: {said}" if status == REFUSED else f"error: {said}", file=sys.stderr)
    raise SystemExit(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vitrine", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], says: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=says, description=says)
        command.add_argument("name", metavar="NAME", help="registered model, as in vitrine-gan")
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
        command.set_defaults(command=run)
        return command

    command = add("promote", _promote, "make a version champion, if its gate passed and the champion is the expected")
    command.add_argument("version", metavar="VERSION")
    command.add_argument("--expect-champion", required=True, metavar="V", help="the present champion, or none")
    command.add_argument("--key", help="of this request; the same key never promotes twice")
    _add_reason(command)
    command = add("rollback", _rollback, "make the previous champion champion again")
    command.add_argument("--expect-champion", metavar="V", help="refuse unless this version is champion")
    command.add_argument("--to", metavar="V", help="an earlier champion (default: the previous one)")
    command.add_argument("--key", help="of this request; the same key never goes back twice")
    _add_reason(command)
    command = add("override", _override, "answer for a version whose gate failed, so that it can be promoted")
    command.add_argument("version", metavar="VERSION")
    command.add_argument("--until", required=True, help=f"day or moment (ISO 8601, UTC), at most {MAX_DAYS} days ahead")
    _add_reason(command)
    command = add("judge", _judge, "judge a version again: on the project's present photos, policy and champion")
    command.add_argument("version", metavar="VERSION")
    command.add_argument("--allow-uncommitted", action="store_true", help="although files differ from the commit")
    add("history", _history, "list what happened to a model: who, when, from, to, why")
    command = add("explain", _explain, "tell where a version comes from, its verdict and what became of it")
    command.add_argument("version", metavar="VERSION")
    return parser


def _add_reason(command: argparse.ArgumentParser) -> None:
    command.add_argument("--why", required=True, metavar="TEXT", help="kept in the history")
    command.add_argument("--who", help="who answers for it (default: VITRINE_USER, or user and machine)")


def _promote(args: argparse.Namespace) -> None:
    expected = None if args.expect_champion == "none" else args.expect_champion
    if expected is not None and (not expected.isascii() or not expected.isdigit() or expected != str(int(expected))):
        raise InputError(f"--expect-champion: found {expected!r}; give a version as in 3, or none")
    outcome = promote(
        args.name, args.version, expect_champion=expected, why=args.why, who=args.who, key=args.key, tell=True
    )
    _print_outcome(outcome, args.json)


def _rollback(args: argparse.Namespace) -> None:
    outcome = rollback(
        args.name,
        why=args.why,
        who=args.who,
        expect_champion=args.expect_champion,
        to=args.to,
        key=args.key,
        tell=True,
    )
    _print_outcome(outcome, args.json)


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    event = outcome.event
    if as_json:
        _print_json(as_json_object(outcome))
        return
    repeated = f" (done before, on {event.when} by {event.who})" if outcome.repeated else ""
    print(printable(f"{outcome.name}: {told(event)}{repeated}"))
    print(f"champion: {shown(outcome.champion)}")
    if outcome.override:
        print(printable(f"override: {outcome.override}"))
    if outcome.warning:
        print(printable(f"warning: {outcome.warning}"))


def as_json_object(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON."""
    return {
        "name": outcome.name,
        "champion": outcome.champion,
        "repeated": outcome.repeated,
        "warning": outcome.warning,
        "override": outcome.override,
        "event": outcome.event.model_dump(mode="json"),
    }


def _override(args: argparse.Namespace) -> None:
    entry = override(args.name, args.version, why=args.why, until=args.until, who=args.who, tell=True)
    if args.json:
        _print_json({"name": args.name, "event": entry.model_dump(mode="json")})
    else:
        print(printable(f"{args.name}: override of {told(entry)}"))


def _judge(args: argparse.Namespace) -> None:
    # Imported here since it brings torch, which no other command waits for.
    from components.registry.judging import judge_again

    if not PARAMS_FILE.exists():
        raise InputError(f"{Path.cwd()} has no {PARAMS_FILE}, where the policy stands; go to the project's folder")
    keep_freed_memory()
    with redirect_stdout(sys.stderr):  # it shows progress, and stdout is for the answer
        found = judge_again(
            args.name,
            args.version,
            load_settings(),
            PREPARED,
            REPORTS,
            read_revision(),
            allow_uncommitted=args.allow_uncommitted,
        )
    if args.json:
        _print_json(asdict(found))
        return
    print(printable(f"{found.name} version {found.version}: {found.verdict}: {found.reason}"))
    if found.report:
        print(f"report: {found.report}")
    if found.verdict == "PASSED":
        asked = f"{found.name} {found.version} --expect-champion {shown(found.champion)}"
        print(f"to promote it: vitrine promote {asked} --why TEXT")


def _history(args: argparse.Namespace) -> None:
    entries = history(args.name)
    if args.json:
        _print_json({"name": args.name, "events": [entry.model_dump(mode="json") for entry in entries]})
        return
    _print_table([COLUMNS, *(_row(entry) for entry in entries)])


def _row(entry: AnyEntry) -> tuple[str, ...]:
    """What `COLUMNS` names; a bar where it says nothing of this entry."""
    change = entry if isinstance(entry, Change) else None
    promoted = entry if isinstance(entry, Promoted) else None
    judged = f"entry {promoted.judged}" if promoted else "-"
    override = f"entry {promoted.override}" if promoted and promoted.override else "-"
    if isinstance(entry, Judged):
        judged = f"{entry.version} {entry.verdict}"
    elif isinstance(entry, Overridden):
        override = f"{entry.version} until {entry.until}"
    return (
        str(entry.number),
        entry.when,
        entry.kind.replace("_", " "),
        shown(change.from_version) if change else "-",
        shown(change.to_version) if change else "-",
        judged,
        override,
        entry.who,
        _why(entry),
    )


def _why(entry: AnyEntry) -> str:
    if isinstance(entry, Judged) and entry.verdict == "FAILED":
        return f"{entry.why}: {describe_verdict(entry)}"
    return entry.why


def _explain(args: argparse.Namespace) -> None:
    found = explain(args.name, args.version)
    if args.json:
        _print_json(asdict(found))
    else:
        print("\n".join(printable(line) for line in explained(found)))


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as their longest text; the last ones may run on."""
    cells = [[printable(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(min(map(len, cells), default=0))]
    for row in cells:
        fixed = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        print("  ".join([*fixed, *row[len(widths) :]]).rstrip())


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=False))


if __name__ == "__main__":
    main()
