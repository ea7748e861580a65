"""A registered model's journal: an append-only list in MLflow, and the truth about the champion.

MLflow's aliases are last-writer-wins and forget what they were. Its parameters are write-once: the
database refuses a second value for a run's key. So one run holds the journal, each entry is a
parameter named by its number, and writing number n + 1 after reading 1 to n is a compare-and-swap.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, ErrorCode

from components import tracking
from components.errors import InputError
from components.registry.entries import LIMIT, AnyEntry, author, parse

EXPERIMENT = "vitrine-promotions"
TAG = "vitrine.journal"
"""Of a registered model: the run that holds its journal."""
JOURNAL_OF = "vitrine.journal_of"
"""Of that run: the registered model's name."""

_ENTRY = re.compile(r"\d{6}")
_MOVE = re.compile(r"(\d{6})\.(move|done)\.(\w+)")
_TOLD = re.compile(r"(\d{6})\.told")


@dataclass(frozen=True)
class Move:
    """One process's try to bring the alias to where an entry wants it.

    Attributes:
        number: the entry's.
        token: of the try.
        done: whether it is over: only then is it sure that this process does not touch the alias any more.
    """

    number: int
    token: str
    done: bool


@dataclass(frozen=True)
class Record:
    """A journal as it was read.

    Attributes:
        entries: number n at index n - 1.
        moves: tries to move the alias.
        told: numbers of the entries that people were told of.
    """

    entries: tuple[AnyEntry, ...]
    moves: frozenset[Move]
    told: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Journal:
    """The journal of a registered model.

    Attributes:
        run_id: the run that holds it.
    """

    name: str
    run_id: str

    def read(self) -> Record:
        """All of it.

        Raises:
            InputError: its run is gone, or is another model's, or it holds what it cannot.
        """
        run = _run(self.name, self.run_id)
        numbers = sorted(key for key in run.data.params if _ENTRY.fullmatch(key))
        entries = tuple(parse(run.data.params[key], f"{self.name}: journal {self.run_id}: {key}") for key in numbers)
        if [entry.number for entry in entries] != list(range(1, len(entries) + 1)):
            raise InputError(f"{self.name}: journal {self.run_id} has gaps; restore MLflow's database from a backup")
        told = frozenset(int(match.group(1)) for match in map(_TOLD.fullmatch, run.data.params) if match)
        return Record(entries, _moves(run.data.params), told)

    def append(self, entry: AnyEntry) -> bool:
        """Writes the entry at its number; false if another process has taken that number.

        Raises:
            InputError: it is too long, or the journal cannot be written.
        """
        text = entry.model_dump_json()
        # MLflow may be set to cut values off instead of refusing them (MLFLOW_TRUNCATE_LONG_VALUES).
        if len(text) > LIMIT:
            raise InputError(f"{self.name}: an entry of {len(text)} characters; {LIMIT} is the most, shorten its texts")
        return self._write(f"{entry.number:06}", text)

    def begin_move(self, number: int) -> str:
        """Notes that this process is about to move the alias for an entry.

        Returns:
            The token of the try.
        """
        token = uuid.uuid4().hex
        self._write(f"{number:06}.move.{token}", json.dumps({"who": author()}))
        return token

    def end_move(self, number: int, token: str) -> None:
        """Notes that it will not touch the alias for this entry any more."""
        self._write(f"{number:06}.done.{token}", "done")

    def mark_told(self, number: int) -> None:
        """Notes that people were told of an entry."""
        self._write(f"{number:06}.told", "told")

    def _write(self, key: str, value: str) -> bool:
        """Writes a parameter; false if it has another value. One whose answer got lost may be sent again."""
        try:
            # Not left to MLFLOW_ENABLE_ASYNC_LOGGING: an entry counts once the database has it.
            MlflowClient().log_param(self.run_id, key, value, synchronous=True)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(INVALID_PARAMETER_VALUE):
                raise
            found = _run(self.name, self.run_id).data.params.get(key)
            if found is None:
                raise
            return bool(found == value)
        return True


def open_journal(name: str) -> Journal:
    """The journal of a registered model; made at the first call.

    Raises:
        InputError: there is no such model, its journal is gone, or MLflow cannot be used.
    """
    _connect()
    model = registered_model(name)
    run_id = _claimed(model)
    return Journal(name, run_id if run_id and TAG in model.tags else _claim(model))


def find_journal(name: str) -> Journal | None:
    """The same for readers, who make none; found also where the model has lost the tag that points to it."""
    _connect()
    model = registered_model(name)
    run_id = _claimed(model)
    return None if run_id is None else Journal(name, run_id)


def _claimed(model: RegisteredModel) -> str | None:
    """The run that the claim names. A renamed model has none, and is known by its tag alone.

    Raises:
        InputError: the tag, which anybody may write on the model's page, names another run.
    """
    claim = MlflowClient().get_experiment_by_name(_claim_name(model))
    tag: str | None = model.tags.get(TAG)
    if claim is None:
        return tag
    run_id = str(claim.tags[TAG])
    if tag not in (None, run_id):
        raise InputError(
            f"{model.name}: its tag {TAG} points to run {tag}, its journal is {run_id}; remove the tag on the model's "
            "page in MLflow, and the right one is found again"
        )
    return run_id


def registered_model(name: str) -> RegisteredModel:
    """The model with its tags and aliases.

    Raises:
        InputError: there is no such model.
    """
    try:
        return MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = sorted(model.name for model in MlflowClient().search_registered_models())
        raise InputError(f"the registry has no model {name!r}; it has {known}") from None


def _connect() -> None:
    tracking.connect()
    if not mlflow.get_tracking_uri().startswith(("http", "sqlite", "postgres", "mysql", "mssql")):
        raise InputError(
            f"MLFLOW_TRACKING_URI is {mlflow.get_tracking_uri()!r}: a folder of files keeps no second writer out; "
            "promotions need a server or a database"
        )


def _claim(model: RegisteredModel) -> str:
    """Makes the journal's run, or finds the one that another process has made.

    The model's tag could be written by two at once. Names of experiments are unique in MLflow, so the
    one who makes the experiment that is named after this very model (by its moment of creation: a
    deleted name may be used again) has won; it is deleted at once, which keeps it as a record.
    """
    client = MlflowClient()
    claim = _claim_name(model)
    found = client.get_experiment_by_name(claim)
    if found is None:
        run_id = _new_run(model.name)
        try:
            client.create_experiment(claim, tags={TAG: run_id})
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            client.delete_run(run_id)
        found = client.get_experiment_by_name(claim)
        assert found is not None
    run_id = str(found.tags[TAG])
    client.set_registered_model_tag(model.name, TAG, run_id)
    if found.lifecycle_stage == LifecycleStage.ACTIVE:
        try:
            client.delete_experiment(found.experiment_id)
        except MlflowException as error:  # another process has deleted it
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return run_id


def _claim_name(model: RegisteredModel) -> str:
    return f"{EXPERIMENT}: {model.name} of {model.creation_timestamp}"


def _new_run(name: str) -> str:
    client = MlflowClient()
    note = "The champion's history, one parameter per entry. Read it with `vitrine history`; never change it by hand."
    run = client.create_run(
        _experiment(client),
        run_name=f"history of {name}",
        tags={JOURNAL_OF: name, "mlflow.note.content": note},
    )
    # Not set_terminated, which prints an address on stdout.
    client.update_run(run.info.run_id, status="FINISHED")
    return str(run.info.run_id)


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT, tags={"mlflow.experimentKind": "custom_model_development"}))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return _experiment(client)


def _run(name: str, run_id: str) -> Any:
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise InputError(
            f"{name}: its journal, run {run_id}, is gone; restore MLflow's database from a backup, or remove the "
            f"model's tag {TAG} to begin a new one"
        ) from None
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise InputError(
            f"{name}: its journal, run {run_id}, has been deleted; bring it back with "
            f"`mlflow.MlflowClient().restore_run('{run_id}')`"
        )
    if (owner := run.data.tags.get(JOURNAL_OF)) != name:
        what = f"the journal of {owner}" if owner else "no journal"
        raise InputError(
            f"{name}: its tag {TAG} points to run {run_id}, which is {what}; remove the tag, and the model's own "
            f"journal is found again. If the model was renamed to {name}, set that run's tag {JOURNAL_OF} to {name}"
        )
    return run


def _moves(params: Mapping[str, str]) -> frozenset[Move]:
    found = [match.groups() for match in map(_MOVE.fullmatch, params) if match]
    done = {(number, token) for number, word, token in found if word == "done"}
    return frozenset(Move(int(number), token, (number, token) in done) for number, _, token in found)
