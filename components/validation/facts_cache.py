"""Facts of the photos in a part, kept between validations: they change only with the part and the code."""

import hashlib
import json
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import features

from components.errors import InputError
from components.files import cache_folder, written_whole
from components.settings import DecodingSettings

SOURCES = (
    "photos/color_profiles.py",
    "photos/colors.py",
    "photos/decoding.py",
    "photos/frames.py",
    "photos/measures.py",
    "photos/pixels.py",
    "validation/facts.py",
)
"""Files of components/ that facts are made by."""

DECODERS = ("jpg", "libjpeg_turbo", "webp", "libtiff", "zlib", "littlecms2")
"""Libraries within Pillow whose version can change a pixel."""


class FactsCache:
    """Tables of facts by the name of their part, which is the beginning of its content's SHA-256.

    The folder is `facts` in the one that VITRINE_CACHE names. Losing it costs time, nothing else; a
    damaged file is computed again.
    """

    def __init__(self, schema: pa.Schema, limits: DecodingSettings) -> None:
        """
        Raises:
            InputError: the folder cannot be written.
        """
        self._schema = schema
        self._folder = cache_folder("facts")
        self._key = _key(limits)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(
                f"{self._folder}: cannot be written ({error}); let VITRINE_CACHE name another folder"
            ) from None

    def keep_only(self, parts: set[str]) -> None:
        """Removes the facts of all other parts: those of a photo that was erased must not outlive it."""
        stems = {Path(part).stem for part in parts}
        for path in self._folder.glob("part-*.parquet"):
            if path.name.partition(".")[0] not in stems:
                path.unlink(missing_ok=True)

    def read(self, part: str) -> pa.Table | None:
        """What is known of a part's photos, which may be some of them only, or None."""
        path = self._path(part)
        if not path.exists():
            return None
        try:
            table = pq.read_table(path, page_checksum_verification=True, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            print(f"{path}: damaged ({error}); the facts are computed again", flush=True)
            return None
        return table if table.schema.equals(self._schema) else None

    def add(self, part: str, table: pa.Table) -> None:
        """Keeps a part's facts beside those that are there; what other code made of it is removed."""
        known = self.read(part)
        path = self._path(part)
        with written_whole(path) as temporary:
            content = table if known is None else pa.concat_tables([known, table])
            pq.write_table(content, temporary, compression="zstd", write_page_checksum=True)
        for other in self._folder.glob(f"{Path(part).stem}.*.parquet"):
            if other != path:
                other.unlink(missing_ok=True)

    def _path(self, part: str) -> Path:
        return self._folder / f"{Path(part).stem}.{self._key}.parquet"


def _key(limits: DecodingSettings) -> str:
    """Everything but the part that facts depend on."""
    content = {"limits": limits.model_dump(), "code": _code(), "libraries": _libraries()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _code() -> dict[str, str]:
    folder = Path(__file__).parent.parent
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SOURCES}


def _libraries() -> dict[str, str | None]:
    decoders = {name: features.version(name) for name in DECODERS}
    return {"numpy": version("numpy"), "pillow": version("pillow"), **decoders}
