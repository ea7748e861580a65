"""Gets Fashion-MNIST's four idx files, wherever they can be had, and checks each by SHA-256."""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from components.errors import InputError
from components.files import cache_folder, written_whole
from components.progress import Progress
from components.settings import FashionMnistSettings

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the uncompressed content: Debian's .gz files have another gzip header than upstream's."""

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")
"""Where the package puts the files, below the root."""

ROOT = Path("/")
FOLDER = "fashion-mnist"
"""Name of the cache of fetched files."""

APT_TIMEOUT = 600.0
"""Seconds for one call of apt-get or dpkg-deb."""

HTTP_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""

TRIES = 3
BACKOFF = 1.0
"""Seconds before the second try of a download; doubles each time."""

Origin = Callable[[FashionMnistSettings], Path]


def read_files(settings: FashionMnistSettings) -> dict[str, bytes]:
    """Uncompressed content of the four files, by name, from the first place that has them.

    Raises:
        InputError: no place has them; the message says of each why.
    """
    failures = []
    for name, origin in ORIGINS[settings.origin]:
        try:
            return read_folder(origin(settings))
        except InputError as error:
            failures.append(f"  {name}: {error}")
    raise InputError(
        f"Fashion-MNIST cannot be had; params.yaml: data.fashion_mnist.origin: {settings.origin}; tried:\n"
        + "\n".join(failures)
        + "\nGive the four idx files by hand with origin 'folder' and data.fashion_mnist.folder."
    )


def read_folder(folder: Path) -> dict[str, bytes]:
    """Reads and checks the four files, each plain or with .gz.

    Raises:
        InputError: one is missing, damaged or not upstream's.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return {name: _read_checked(_plain_or_gz(folder, name), name) for name in SHA256}


def _plain_or_gz(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{folder / name}[.gz]: not found")


def _read_checked(path: Path, name: str) -> bytes:
    """Uncompressed content of one file, compared with SHA256[name]."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path}: damaged: {error}; delete it or replace it") from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise InputError(
            f"{path}: its uncompressed content has SHA-256 {found}, upstream's {name} has {SHA256[name]}; "
            "delete it or replace it"
        )
    return content


def given(settings: FashionMnistSettings) -> Path:
    """The user's own folder."""
    assert settings.folder is not None  # origin 'folder' without one is refused with the settings
    return Path(settings.folder)


def cached(_: FashionMnistSettings) -> Path:
    """What an earlier run has fetched."""
    return cache_folder(FOLDER)


def installed(_: FashionMnistSettings) -> Path:
    """The installed Debian package."""
    return ROOT / DEBIAN_FOLDER


def _made_cache() -> Path:
    folder = cache_folder(FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); set VITRINE_CACHE to another folder") from None
    return folder


def fetched(_: FashionMnistSettings) -> Path:
    """The Debian package, fetched and unpacked into the cache; neither root nor sudo is needed."""
    cache = _made_cache()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".debian.") as name:
        work = Path(name)
        _download_package(work)
        (package,) = work.glob(f"{DEBIAN_PACKAGE}_*.deb")
        _call(["dpkg-deb", "-x", str(package), str(work / "root")], work)
        unpacked = work / "root" / DEBIAN_FOLDER
        read_folder(unpacked)
        for file in SHA256:
            (unpacked / f"{file}.gz").replace(cache / f"{file}.gz")
    return cache


def _download_package(work: Path) -> None:
    """Fetches the .deb into `work`; on a machine without package lists fetches those first."""
    for folder in ("lists/partial", "archives/partial"):
        (work / folder).mkdir(parents=True)
    # Run by root, apt drops to a user of its own, who may not write here.
    apt = ["apt-get", "-o", f"Dir::Cache={work}", "-o", "APT::Sandbox::User=root"]
    apt += ["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30"]
    try:
        _call([*apt, "download", DEBIAN_PACKAGE], work)
    except InputError:
        lists = ["-o", f"Dir::State::Lists={work / 'lists'}"]
        _call([*apt, *lists, "update"], work)
        _call([*apt, *lists, "download", DEBIAN_PACKAGE], work)


def _call(command: Sequence[str], work: Path) -> None:
    """Runs a command in `work`, with its last lines in the error if it fails."""
    if shutil.which(command[0]) is None:
        raise InputError(f"{command[0]}: not found on this machine")
    try:
        subprocess.run(
            command,
            cwd=work,
            check=True,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=APT_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        tail = " / ".join(error.stdout.strip().splitlines()[-3:])
        raise InputError(f"{command[0]} failed with status {error.returncode}: {tail}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{command[0]}: no end after {APT_TIMEOUT:g} s") from None


def downloaded(settings: FashionMnistSettings) -> Path:
    """Upstream's files, fetched into the cache."""
    cache = _made_cache()
    for name in SHA256:
        with written_whole(cache / f"{name}.gz") as temporary:
            _download(f"{settings.url}/{name}.gz", temporary)
            _read_checked(temporary, name)
    return cache


def _download(url: str, path: Path) -> None:
    """Fetches a file; tries again when the network or the server fails.

    Raises:
        InputError: the last try failed, or the server refuses.
    """
    for attempt in range(1, TRIES + 1):
        try:
            _download_once(url, path)
            return
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 or attempt == TRIES:
                raise InputError(f"{url}: the server answers {error.response.status_code}") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            if attempt == TRIES:
                raise InputError(f"{url}: {str(error) or type(error).__name__}; tried {TRIES} times") from None
        time.sleep(BACKOFF * 2 ** (attempt - 1))


def _download_once(url: str, path: Path) -> None:
    with (
        httpx.stream("GET", url, timeout=HTTP_TIMEOUT, follow_redirects=True) as response,
        path.open("wb") as file,
    ):
        response.raise_for_status()
        size = response.headers.get("content-length")
        progress = Progress(f"{url}: bytes", int(size) if size else None)
        # Raw: a server may well call the .gz a content encoding, and the client would unpack it.
        for chunk in response.iter_raw():
            file.write(chunk)
            progress.add(len(chunk))


ORIGINS: dict[str, tuple[tuple[str, Origin], ...]] = {
    "auto": (
        ("cache", cached),
        ("installed Debian package", installed),
        ("fetched Debian package", fetched),
        ("upstream", downloaded),
    ),
    "debian": (
        ("cache", cached),
        ("installed Debian package", installed),
        ("fetched Debian package", fetched),
    ),
    "folder": (("folder", given),),
    "upstream": (("cache", cached), ("upstream", downloaded)),
}
"""Places that are asked, in this order, per value of data.fashion_mnist.origin."""
