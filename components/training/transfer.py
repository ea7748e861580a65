"""Trainings that start from trained weights instead of random ones."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from components import tracking
from components.dataset import AttributeValues, DatasetInfo
from components.errors import InputError
from components.files import sha256_file
from components.generative import CARD, GenerativeModel, load_card, load_weights
from components.settings import REGISTRY, InitFrom
from components.training.checkpoints import load_checkpoint


@dataclass(frozen=True)
class Source:
    """Weights that a training may start from.

    Attributes:
        where: for messages and tags; of a registered version its number, also where an alias was given.
        family: the model's; None: not known.
        attributes: conditions and their values that it was trained for; None: not known.
        weights: a sampling state, or the whole state of a model.
        whole: which of the two.
        sha256: of the file with the weights.
    """

    where: str
    family: str | None
    attributes: AttributeValues | None
    weights: dict[str, Tensor]
    whole: bool
    sha256: str


@dataclass(frozen=True)
class Table:
    """A tensor with one row per value of an attribute: the weight of an embedding, say.

    Attributes:
        column: of the attribute.
        attribute: its name.
        values: of the attribute, in the order of the rows.
    """

    column: int
    attribute: str
    values: tuple[str, ...]


def initialise(model: GenerativeModel, init_from: InitFrom, family: str, info: DatasetInfo) -> dict[str, str]:
    """Gives an untrained model the weights of a trained one; does nothing about optimisers and counts of steps.

    From a registered version or a folder come the weights that it samples with: they become both the averaged and the
    trained ones, as far as the family averages; a discriminator starts anew. From a checkpoint comes all that the
    model consists of, the discriminator too.

    Vectors of categorical values are matched by name: where a category was added, renamed or reordered, the
    known ones keep theirs, and a new one starts as random as it would have. What `fit_sampling` sets is left out.

    Args:
        model: untrained, on the CPU, for the dataset.
        init_from: section `train.<family>.init_from` of params.yaml.
        family: the model's name.
        info: of the prepared dataset.

    Returns:
        Tags for the MLflow run: vitrine.init_from, vitrine.init_from_sha256.

    Raises:
        InputError: there is nothing usable at the source, or it is of another family, or weights are
            missing, superfluous or of another shape that init_from.allow does not name: they all are named.
    """
    source = _load(init_from.source, f"params.yaml: train.{family}.init_from")
    if source.family not in (family, None):
        raise InputError(
            f"params.yaml: train.{family}.init_from: {source.where} is a '{source.family}'; give a source of "
            f"family '{family}'"
        )
    mine = model.state_dict() if source.whole else model.sampling_state()
    started, told = _fitted(mine, _tables(model, mine, info.attributes), source, init_from.allow, model.refitted)
    if source.whole:
        model.load_state_dict(started)
    else:
        model.start_from(started)
    for line in [f"{family}: starts from {source.where}, weights {source.sha256[:12]}", *told]:
        print(line, flush=True)
    return {"vitrine.init_from": source.where, "vitrine.init_from_sha256": source.sha256}


def _load(source: str, key: str) -> Source:
    """Fetches and reads what init_from.source names."""
    if source.startswith(REGISTRY):
        with _downloaded(source, key) as (where, folder):
            return _from_folder(folder, where)
    path = Path(source)
    if path.is_dir() and (path / CARD).is_file():
        return _from_folder(path, source)
    if path.is_file():
        return _from_checkpoint(path)
    found = f"a folder without {CARD}" if path.is_dir() else "no such file or folder"
    raise InputError(
        f"{key}.source is {source!r}: {found}; give models:/NAME/VERSION, models:/NAME@ALIAS, a folder with {CARD} "
        "and weights.safetensors, or a checkpoint"
    )


def _from_folder(folder: Path, where: str) -> Source:
    card = load_card(folder)
    return Source(where, card.family, card.attributes, load_weights(folder, card), False, card.weights_sha256)


@contextmanager
def _downloaded(uri: str, key: str) -> Iterator[tuple[str, Path]]:
    """The registered version's name with its number, and a folder with its model.json, there for a while.

    Raises:
        InputError: no such model, version or alias, or it is none of ours.
    """
    tracking.connect()
    try:
        version = _version(uri.removeprefix(REGISTRY))
        where = f"{REGISTRY}{version.name}/{version.version}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(mlflow.artifacts.download_artifacts(where, dst_path=scratch))
            cards = sorted(folder.glob(f"artifacts/*/{CARD}"))
            if len(cards) != 1:
                raise InputError(f"{key}.source: {where} holds no model of Vitrine's ({len(cards)} files {CARD})")
            yield where, cards[0].parent
    except MlflowException as error:
        raise InputError(
            f"{key}.source is {uri!r}: {error}; see the registry's page in MLflow for names, versions and aliases"
        ) from None


def _version(name: str) -> mlflow.entities.model_registry.ModelVersion:
    """NAME/VERSION or NAME@ALIAS."""
    client = mlflow.MlflowClient()
    if "/" in name:
        return client.get_model_version(*name.rsplit("/", 1))
    return client.get_model_version_by_alias(*name.rsplit("@", 1))


def _from_checkpoint(path: Path) -> Source:
    state = load_checkpoint(path)
    attributes = state.get("attributes")
    if attributes is not None:
        attributes = {name: tuple(values) for name, values in attributes.items()}
    return Source(str(path), state.get("family"), attributes, state["model"], True, sha256_file(path))


def _tables(model: nn.Module, state: Mapping[str, Tensor], attributes: AttributeValues) -> dict[str, Table]:
    """Which of a state's tensors have a row per value of an attribute.

    Those of an embedding that stands at the attribute's place in a list of modules, as in
    `components.networks`, also where spectral normalisation has put it elsewhere. A sampling state has names of
    its own, but shares its tensors with the model: by their places in memory they are found.
    """
    places: dict[int, int] = {}
    cardinalities = [len(values) for values in attributes.values()]
    for name, module in model.named_modules():
        column = name.rpartition(".")[2]
        if not (isinstance(module, nn.Embedding) and column.isdigit() and int(column) < len(cardinalities)):
            continue
        if module.num_embeddings == cardinalities[int(column)]:
            for part, tensor in chain(module.named_parameters(), module.named_buffers()):
                # The normalisation's right vector has an element per component instead, and settles within steps.
                if not part.endswith("._v"):
                    places[tensor.data_ptr()] = int(column)
    named = list(attributes.items())
    return {
        name: Table(places[tensor.data_ptr()], *named[places[tensor.data_ptr()]])
        for name, tensor in state.items()
        if tensor.ndim and tensor.data_ptr() in places and len(tensor) == cardinalities[places[tensor.data_ptr()]]
    }


def _fitted(
    mine: Mapping[str, Tensor],
    tables: Mapping[str, Table],
    source: Source,
    allow: Sequence[str],
    refitted: tuple[str, ...],
) -> tuple[dict[str, Tensor], list[str]]:
    """The model's state with the source's weights wherever they fit, and lines about where they do not.

    Raises:
        InputError: something does not fit and is not allowed.
    """
    started, misfits, told = dict(mine), {}, []
    for name, tensor in mine.items():
        theirs = source.weights.get(name)
        if refitted and name.startswith(refitted):
            continue
        if name in tables and source.attributes is not None and theirs is not None:
            reason = _reason_of_table(tables[name], theirs, tensor, source.attributes)
            if reason is None:
                started[name], line = _by_value(tables[name], theirs, tensor, source.attributes)
                told += [f"  {name}: {line}"] if line else []
        else:
            reason = _reason(theirs, tensor)
            started[name] = tensor if theirs is None or reason else theirs
        if reason is not None:
            misfits[name] = reason
    surplus = [name for name in source.weights if name not in mine and not (refitted and name.startswith(refitted))]
    misfits |= {name: f"{_shape(source.weights[name])} in the source, not in this model" for name in surplus}
    refused = {name: reason for name, reason in misfits.items() if not name.startswith(tuple(allow))}
    if refused:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in refused.items())
        raise InputError(
            f"{source.where}: {len(refused)} weight(s) do not fit the model that params.yaml describes:\n{lines}\n"
            "  Give the settings that it was trained with, or name in init_from.allow the beginnings of those that "
            "shall start anew"
        )
    return started, [*told, *(f"  {name}: starts anew, {reason}" for name, reason in misfits.items())]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _reason(theirs: Tensor | None, mine: Tensor) -> str | None:
    """Why a weight does not fit; None if it does."""
    if theirs is None:
        return f"{_shape(mine)} in this model, not in the source"
    return None if theirs.shape == mine.shape else f"{_shape(mine)} in this model, {_shape(theirs)} in the source"


def _reason_of_table(table: Table, theirs: Tensor, mine: Tensor, attributes: AttributeValues) -> str | None:
    """As `_reason`, for a table: rows may differ in number, but must be of the same attribute."""
    names = list(attributes)
    attribute = names[table.column] if table.column < len(names) else None
    if attribute != table.attribute:
        return f"of attribute '{table.attribute}' in this model, of '{attribute}' in the source"
    expected = (len(attributes[table.attribute]), *mine.shape[1:])
    return None if theirs.shape == expected else f"{_shape(mine)} in this model, {_shape(theirs)} in the source"


def _by_value(table: Table, theirs: Tensor, mine: Tensor, attributes: AttributeValues) -> tuple[Tensor, str]:
    """A table whose rows are the source's where it knows the value, and what to say about the others."""
    known = {value: row for row, value in enumerate(attributes[table.attribute])}
    started = mine.detach().clone()
    for row, value in enumerate(table.values):
        if value in known:
            started[row] = theirs[known[value]]
    new = [value for value in table.values if value not in known]
    gone = [value for value in known if value not in table.values]
    told = {"starts anew": new, "is left out": gone}
    return started, "; ".join(f"{table.attribute} {found} {what}" for what, found in told.items() if found)
