"""Judges a registered version once more: on today's photos, by today's policy, against today's champion."""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from components import tracking
from components.errors import InputError
from components.evaluate import evaluate
from components.files import write_json
from components.generative import load_card
from components.measurement import write_measurement
from components.memory import keep_freed_memory
from components.registry.alias import settle
from components.registry.candidates import Candidate
from components.registry.champion import registered_weights
from components.registry.journal import open_journal
from components.registry.refusals import RefusalError
from components.registry.release import Decision, judge_version
from components.registry.weights import DIGEST, model_version
from components.revision import Revision, read_revision
from components.settings import PARAMS_FILE, Settings, load_settings
from components.stage import explained_errors


def judge_again(
    name: str,
    version: str,
    settings: Settings,
    prepared_dir: Path,
    reports_dir: Path,
    revision: Revision,
    *,
    allow_uncommitted: bool = False,
) -> Decision:
    """Measures a version's registered weights as the stages do, and notes the verdict in the journal.

    Args:
        prepared_dir: data/prepared.
        reports_dir: the project's: its ingest.json, if it is there, has the licences for the model card.
        revision: whose policy and code it is; the journal names it.
        allow_uncommitted: although files differ from it, which the journal notes.

    Raises:
        RefusalError: it is the champion, with which it would be compared.
        InputError: there is no such version, it was not registered by a training of ours, its weights are
            not those that were registered, the dataset does not fit it, or files are not committed.
    """
    if revision.changed and not allow_uncommitted:
        raise InputError(
            f"uncommitted changes in {revision.differing}: nobody could say later by which policy version {version} "
            "was judged. Commit them, or say --allow-uncommitted, which the history shows"
        )
    tracking.connect()
    found = model_version(name, version)
    journal = open_journal(name)
    run_id = found.tags.get("vitrine.mlflow_run")
    if run_id is None or DIGEST not in found.tags:
        raise InputError(
            f"{name}: version {version} was registered by hand: nobody has noted its training and its weights; "
            "train and register it with `make run`"
        )
    if settle(journal).champion.version == version:
        raise RefusalError(
            "ALREADY_CHAMPION",
            f"{name}: version {version} is the champion, and would be compared with itself",
            champion=version,
        )
    with registered_weights(name, version, found.tags[DIGEST]) as weights, tempfile.TemporaryDirectory() as scratch:
        family = load_card(weights).family
        if family not in settings.gate:
            raise InputError(f"params.yaml: gate has no policy for '{family}'; it has {sorted(settings.gate)}")
        reports = Path(scratch) / family
        print(f"{name}: measuring version {version} on the current split", flush=True)
        measured = evaluate(settings.evaluate, prepared_dir, weights, family, reports / "evaluation")
        write_measurement(reports / "measurement.json", measured)
        write_json(reports / "run.json", {"run_id": run_id})
        if (ingest := reports_dir / "ingest.json").exists():
            shutil.copy(ingest, reports.parent)
        lineage = {"vitrine.git_commit": revision.commit, "vitrine.git_dirty": str(bool(revision.changed)).lower()}
        candidate = Candidate(family, weights, reports, lineage)
        return judge_version(journal, found, candidate, settings, prepared_dir)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--name", required=True, help="of the registered model")
    parser.add_argument("--version", required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True, help="folder of all reports")
    parser.add_argument("--allow-uncommitted", action="store_true", help="although files differ from the commit")
    parser.add_argument("--out", type=Path, required=True, help="where the decision is written, as JSON")
    args = parser.parse_args(argv)
    keep_freed_memory()
    with explained_errors():
        decision = judge_again(
            args.name,
            args.version,
            load_settings(args.params),
            args.prepared,
            args.reports,
            read_revision(),
            allow_uncommitted=args.allow_uncommitted,
        )
        write_json(args.out, asdict(decision))
        print(f"{decision.name} version {decision.version}: {decision.verdict}: {decision.reason}", flush=True)


if __name__ == "__main__":
    main()
