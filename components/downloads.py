"""Files that are named by a path or a URL, downloaded once into the cache."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from filelock import FileLock

from components.errors import InputError
from components.files import cache_folder, sha256_file, written_whole
from components.progress import Progress

TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""

CHUNK = 1 << 20


def local_file(place: str, kind: str) -> Path:
    """The file at a path, or the cached copy of one at a URL.

    A downloaded file has its SHA-256 beside it, in a file named `.sha256`, and is checked against
    that on each use, so that one that was altered or cut off since is noticed.

    Args:
        place: path, or URL that begins with http:// or https://.
        kind: folder of the cache.

    Raises:
        InputError: there is no such file, it cannot be downloaded, or the copy is not what was downloaded.
    """
    if not place.startswith(("http://", "https://")):
        if not Path(place).is_file():
            raise InputError(f"params.yaml: evaluate.weights is {place!r}, no such file; give its path or URL")
        return Path(place)
    folder = cache_folder(kind) / hashlib.sha256(place.encode()).hexdigest()[:16]
    path = folder / (Path(urlsplit(place).path).name or "file")
    noted = folder / f"{path.name}.sha256"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not noted.is_file() or not path.is_file():
                _download(place, path, noted)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder}: cannot be written ({error}); let VITRINE_CACHE name another folder") from None
    found, expected = sha256_file(path), noted.read_text(encoding="utf-8").strip()
    if found != expected:
        raise InputError(f"{path}: SHA-256 is {found}, downloaded was {expected}; delete {folder} to download it again")
    return path


def _download(url: str, path: Path, noted: Path) -> None:
    digest = hashlib.sha256()
    try:
        with (
            httpx.stream("GET", url, timeout=TIMEOUT, follow_redirects=True) as response,
            written_whole(path) as temporary,
            temporary.open("wb") as file,
        ):
            response.raise_for_status()
            length = response.headers.get("Content-Length")
            progress = Progress(f"download of {url}, bytes", int(length) if length else None)
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                progress.add(len(chunk))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(
            f"{url}: cannot be downloaded ({error!r}); download it on another machine and give its path"
        ) from None
    with written_whole(noted) as temporary:
        temporary.write_text(f"{digest.hexdigest()}\n", encoding="utf-8")
