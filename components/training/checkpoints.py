"""Checkpoints as files: written whole, with their SHA-256 beside them, and read only where the bytes have it."""

import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from components.errors import InputError
from components.files import write_json, written_whole

FORMAT = 1
PATTERN = "step-*.json"

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Of small files that are read back: what has a value of another type is damaged."""

State = dict[str, Any]
"""What a checkpoint holds.

`format`, `step` (optimiser steps done), `images` (seen until then, repeats counted), `ended` (the training
shall not go on, as after an early stop), `model` (its state_dict), `optimizers` (theirs, in order) and
`callbacks` (those of callbacks, by the class's name). Plain containers, numbers, texts and tensors.
"""


class DamagedError(Exception):
    """A checkpoint whose bytes are not those that were written."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint without reading it; a small JSON file beside it, written after it.

    Attributes:
        step: optimiser steps done.
        images: seen until then, repeats counted.
        sha256: of the checkpoint's bytes, hex.
        size: their number.
        run_id: the training's MLflow run.
        time: when it was written, seconds since 1970.
    """

    __pydantic_config__ = STRICT

    step: int
    images: int
    sha256: str
    size: int
    run_id: str
    time: float

    @property
    def data_name(self) -> str:
        """File name of the checkpoint."""
        return f"step-{self.step:09d}.ckpt"

    @property
    def name(self) -> str:
        """File name of this manifest."""
        return f"step-{self.step:09d}.json"

    def encoded(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode()


def manifest_of(content: bytes, state: State, run_id: str) -> Manifest:
    """The manifest of a checkpoint's bytes."""
    digest = hashlib.sha256(content).hexdigest()
    return Manifest(state["step"], state["images"], digest, len(content), run_id, round(time.time(), 3))


def parsed_manifest(content: bytes, where: object) -> Manifest:
    """Reads a manifest.

    Raises:
        DamagedError: it is none.
    """
    try:
        return TypeAdapter(Manifest).validate_json(content)
    except ValidationError as error:
        raise DamagedError(f"{where}: no manifest of a checkpoint: {in_words(error)}") from None


def in_words(error: ValidationError) -> str:
    """What is wrong with a small file, in one line."""
    found = [(".".join(map(str, entry["loc"])), entry["msg"]) for entry in error.errors()]
    return "; ".join(f"{key}: {said}" if key else said for key, said in found)


def encode(state: State) -> bytes:
    """A state as bytes; in memory, since torch hides the system's error where a disk is full."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getvalue()


def decode(content: bytes, manifest: Manifest, where: object) -> State:
    """A checkpoint's state, on the CPU. Its bytes are checked before torch reads them.

    Raises:
        DamagedError: the bytes are not those of the manifest.
        InputError: this code cannot read them although they are.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.sha256:
        raise DamagedError(
            f"{where}: {len(content)} bytes with SHA-256 {found[:16]}..., "
            f"written were {manifest.size} with {manifest.sha256[:16]}..."
        )
    state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if state.get("format") != FORMAT:
        raise InputError(f"{where}: checkpoint of format {state.get('format')}, this code reads {FORMAT}")
    return state


def write(folder: Path, content: bytes, manifest: Manifest) -> None:
    """Puts a checkpoint into a folder, its manifest last: what has one was whole when it was written."""
    with written_whole(folder / manifest.data_name) as temporary:
        temporary.write_bytes(content)
    write_json(folder / manifest.name, asdict(manifest))


def read(folder: Path, manifest: Manifest) -> bytes:
    """The bytes of a checkpoint of a folder, unchecked: see `decode`.

    Raises:
        DamagedError: the file is missing or cannot be read.
    """
    try:
        return (folder / manifest.data_name).read_bytes()
    except OSError as error:
        raise DamagedError(f"{folder / manifest.data_name}: {error.strerror}") from None


def manifests(folder: Path) -> tuple[list[Manifest], list[str]]:
    """Manifests of a folder's checkpoints, newest first, and what is wrong with those that cannot be read."""
    found, problems = [], []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            found.append(parsed_manifest(path.read_bytes(), path))
        except (DamagedError, OSError) as error:
            problems.append(str(error))
    return found, problems


def prune(folder: Path, keep: int) -> None:
    """Removes all checkpoints of a folder but those written last, manifests first: none is left without its data.

    Not those of the highest steps: a damaged one is passed over, and would take the place of a good one.
    """
    by_age = sorted(folder.glob(PATTERN), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    for path in by_age[keep:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".ckpt").unlink(missing_ok=True)
    kept = {path.stem for path in folder.glob(PATTERN)}
    for path in [*folder.glob("step-*.ckpt"), *folder.glob(".step-*")]:
        # What a killed process left half-written, or without its manifest.
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> State:
    """Reads one checkpoint that a user names, for example to start another training from it.

    Args:
        path: the .ckpt file; its manifest, of the same name with .json, lies beside it.

    Raises:
        InputError: a file is missing, or the bytes are not those that were written.
    """
    try:
        manifest = parsed_manifest(path.with_suffix(".json").read_bytes(), path.with_suffix(".json"))
        return decode(path.read_bytes(), manifest, path)
    except OSError as error:
        raise InputError(
            f"{error.filename}: {error.strerror}; a checkpoint is a .ckpt with its .json beside it"
        ) from None
    except DamagedError as error:
        raise InputError(f"{error}; take another checkpoint") from None
