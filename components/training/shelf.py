"""Where one training keeps its checkpoints: a folder of this project and, if there is one, the object store.

Both hold the same:

    <family>-<fingerprint>/run.json              which attempt is under way, its MLflow run, whether it is finished
    <family>-<fingerprint>/<attempt>/step-*.ckpt
    <family>-<fingerprint>/<attempt>/step-*.json    manifests, written last

An attempt is one training from its first step to its last, however often it is killed in between. A fault
of the store is a warning; what is in the folder stays good.
"""

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from components.files import write_json
from components.training import checkpoints
from components.training.checkpoints import DamagedError, Manifest, State
from components.training.store import ObjectStore, StoreError
from components.training.tidying import remove_others_here, remove_others_there
from components.training.uploads import Uploads

FOLDER = Path(".vitrine/checkpoints")
"""Below the project."""


@dataclass(frozen=True)
class Attempt:
    """What run.json says.

    Attributes:
        attempt: name of the folder with its checkpoints.
        started: seconds since 1970.
        run_id: MLflow's; None before it has one.
        finished: its outputs are written.
    """

    __pydantic_config__ = checkpoints.STRICT

    attempt: str
    started: float
    run_id: str | None
    finished: bool

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Shelf:
    """Checkpoints of one training.

    Args:
        fingerprint: see `components.training.identity`.
        keep: newest checkpoints that are kept.
        store: the second place; None: there is none.
        root: the folder of all trainings' checkpoints.

    Attributes:
        attempt: the one under way; see `opened`.
    """

    def __init__(
        self, family: str, fingerprint: str, keep: int, store: ObjectStore | None, root: Path = FOLDER
    ) -> None:
        self.family, self._keep, self._store = family, keep, store
        self._name = f"{family}-{fingerprint[:16]}"
        self._root = root.absolute()
        self.attempt = Attempt(secrets.token_hex(4), round(time.time(), 3), None, False)
        self._noted_there = False
        self._uploads = Uploads(self._send)

    @property
    def folder(self) -> Path:
        """Where this attempt's checkpoints lie on this machine."""
        return self._root / self._name / self.attempt.attempt

    @property
    def _place(self) -> str:
        """Where they lie in the store."""
        return f"{self._name}/{self.attempt.attempt}"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Takes the shelf for this process; goes on with an attempt that was not finished, or begins a new one.

        Raises:
            RuntimeError: another process trains the same.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._root / f"{self._name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RuntimeError(
                f"another process trains the same '{self.family}' in this folder; wait for it, or end it first"
            ) from None
        try:
            self._choose_attempt()
            remove_others_here(self._root, self.family, self._name)
            if self._store is not None:
                with self._warned("old checkpoints stay there"):
                    remove_others_there(self._store, self.family, self._name)
            yield
        finally:
            self._uploads.wait()
            lock.release()

    def _choose_attempt(self) -> None:
        """The one that began last, unless it is finished: then another machine need not be asked for its own."""
        known = [attempt for attempt in (self._noted_on_disk(), self._noted_in_store()) if attempt is not None]
        latest = max(known, key=lambda attempt: attempt.started, default=None)
        if latest and not any(attempt.finished for attempt in known if attempt.attempt == latest.attempt):
            self.attempt = latest

    def _noted_on_disk(self) -> Attempt | None:
        path = self._root / self._name / "run.json"
        return self._parsed(path.read_bytes(), str(path)) if path.exists() else None

    def _noted_in_store(self) -> Attempt | None:
        if self._store is None:
            return None
        with self._warned("going by the checkpoints of this machine alone"):
            content = self._store.get(f"{self._name}/run.json")
            return None if content is None else self._parsed(content, f"{self._store.url}/{self._name}/run.json")
        return None

    def _parsed(self, content: bytes, where: str) -> Attempt | None:
        try:
            return TypeAdapter(Attempt).validate_json(content)
        except ValidationError as error:
            self._warn(f"{where} is damaged ({checkpoints.in_words(error)}) and not used")
            return None

    def note_run(self, run_id: str) -> None:
        """Notes the attempt's MLflow run in both places: a training killed before its first checkpoint finds it."""
        self._note(replace(self.attempt, run_id=run_id))

    def _note(self, attempt: Attempt) -> None:
        self.attempt, self._noted_there = attempt, False
        write_json(self._root / self._name / "run.json", asdict(attempt))
        with self._warned("the training goes on with the checkpoints of this machine"):
            self._note_there()

    def _note_there(self) -> None:
        if self._store is not None and not self._noted_there:
            self._store.put(f"{self._name}/run.json", self.attempt.encoded())
            self._noted_there = True

    def latest(self) -> State | None:
        """The attempt's newest checkpoint whose bytes are those that were written; damaged ones are told of."""
        here, problems = checkpoints.manifests(self.folder)
        for problem in problems:
            self._warn(f"a checkpoint is damaged and not used: {problem}")
        by_name = {manifest.name: manifest for manifest in here}
        for name in sorted({*by_name, *self._names_there()}, reverse=True):
            state = self._from_disk(by_name[name]) if name in by_name else None
            state = self._from_store(name) if state is None else state
            if state is not None:
                return state
        return None

    def _names_there(self) -> set[str]:
        """Names of the manifests in the store."""
        if self._store is None:
            return set()
        with self._warned("going by the checkpoints of this machine alone"):
            found = self._store.names(f"{self._place}/step-")
            return {name.rpartition("/")[2] for name in found if name.endswith(".json")}
        return set()

    def _from_disk(self, manifest: Manifest) -> State | None:
        with self._warned("this checkpoint is damaged and not used"):
            return checkpoints.decode(checkpoints.read(self.folder, manifest), manifest, self.folder / manifest.name)
        return None

    def _from_store(self, name: str) -> State | None:
        """A checkpoint of the store, which then lies here too; None if it is missing there or damaged."""
        if self._store is None:
            return None
        where = f"{self._store.url}/{self._place}/{name}"
        with self._warned("this checkpoint of the store is not used"):
            encoded = self._store.get(f"{self._place}/{name}")
            if encoded is None:
                return None
            manifest = checkpoints.parsed_manifest(encoded, where)
            content = self._store.get(f"{self._place}/{manifest.data_name}") or b""
            state = checkpoints.decode(content, manifest, where)
            checkpoints.write(self.folder, content, manifest)
            return state
        return None

    def put(self, state: State) -> None:
        """Keeps a checkpoint: here before it returns, in the store meanwhile.

        Where it cannot be written, as on a full disk, the training goes on and the one before stays.
        """
        content = checkpoints.encode(state)
        manifest = checkpoints.manifest_of(content, state, self.attempt.run_id or "")
        try:
            checkpoints.write(self.folder, content, manifest)
            checkpoints.prune(self.folder, self._keep)
        except OSError as error:
            self._warn(f"checkpoint of step {manifest.step} cannot be written: {error}; the training goes on")
        if self._store is not None:
            self._uploads.offer((content, manifest))

    def _send(self, checkpoint: tuple[bytes, Manifest]) -> None:
        assert self._store is not None
        content, manifest = checkpoint
        with self._warned(f"the checkpoint of step {manifest.step} is on this machine alone; the training goes on"):
            self._note_there()
            self._store.put(f"{self._place}/{manifest.data_name}", content)
            self._store.put(f"{self._place}/{manifest.name}", manifest.encoded())
            self._prune_store(self._keep)

    def _prune_store(self, keep: int) -> None:
        assert self._store is not None
        written = self._store.names(f"{self._place}/step-")
        by_age = sorted((name for name in written if name.endswith(".json")), key=lambda name: (written[name], name))
        old = by_age[:-keep]
        self._store.delete(old)
        self._store.delete([f"{name.removesuffix('.json')}.ckpt" for name in old])

    def newest_path(self) -> Path | None:
        """The newest checkpoint of this attempt on this machine."""
        found, _ = checkpoints.manifests(self.folder)
        return self.folder / found[0].data_name if found else None

    def finish(self) -> None:
        """Marks the attempt as finished: the next training of this kind begins anew. Its last checkpoint stays."""
        self._uploads.wait()
        self._note(replace(self.attempt, finished=True))
        checkpoints.prune(self.folder, 1)
        for folder in (self._root / self._name).iterdir():
            if folder.is_dir() and folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        if self._store is not None:
            with self._warned("old checkpoints stay there"):
                self._prune_store(1)
                own = (f"{self._name}/run.json", f"{self._place}/")
                names = self._store.names(f"{self._name}/")
                self._store.delete([name for name in names if not name.startswith(own)])

    @contextmanager
    def _warned(self, consequence: str) -> Iterator[None]:
        """Tells of a damaged checkpoint or a failing store, and goes on after the block."""
        try:
            yield
        except (DamagedError, StoreError) as error:
            self._warn(f"{error}; {consequence}")

    def _warn(self, text: str) -> None:
        print(f"{self.family}: warning: {text}", flush=True)
