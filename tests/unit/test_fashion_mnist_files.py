"""Where the files come from: a real HTTP server, a real apt repository, broken ones of each."""

import gzip
import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.errors import InputError
from components.settings import FashionMnistSettings
from components.sources import fashion_mnist_files as files

IMAGES = "train-images-idx3-ubyte"
LABELS = "t10k-labels-idx1-ubyte"


class Upstream(ThreadingHTTPServer):
    """Serves a folder, with the faults that a test asks for.

    Attributes:
        failures: requests that are answered with 503 before any other.
        cut: whether bodies end before the announced length.
        delay: event that an answer waits for.
        requests: paths that were asked for.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.failures = 0
        self.cut = False
        self.delay: threading.Event | None = None
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_GET(self) -> None:
        upstream = self.server
        upstream.requests.append(self.path)
        if upstream.delay:
            upstream.delay.wait(20)
        path = upstream.folder / self.path.strip("/")
        if upstream.failures:
            upstream.failures -= 1
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send(path.read_bytes())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Encoding", "gzip")  # some servers say so of .gz files
        self.end_headers()
        self.wfile.write(content[:100] if self.server.cut else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream(fashion_mnist_gz: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(files, "BACKOFF", 0.01)
    server = Upstream(fashion_mnist_gz)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a machine without the Debian package."""
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "ROOT", tmp_path / "root")
    return tmp_path / "cache" / "fashion-mnist"


def from_origin(origin: str, folder: Path | None = None, url: str = "http://127.0.0.1:9") -> FashionMnistSettings:
    return FashionMnistSettings.model_validate(
        {"origin": origin, "folder": None if folder is None else str(folder), "url": url}
    )


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def digests(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_upstream_is_fetched_once(upstream: Upstream, cache: Path) -> None:
    settings = from_origin("upstream", url=upstream.url)
    assert digests(files.read_files(settings)) == files.SHA256
    assert sorted(upstream.requests) == sorted(f"/{name}.gz" for name in files.SHA256)
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in files.SHA256)

    assert digests(files.read_files(settings)) == files.SHA256
    assert len(upstream.requests) == 4


@pytest.mark.usefixtures("cache")
def test_a_server_that_fails_is_asked_again(upstream: Upstream) -> None:
    upstream.failures = 2
    files.read_files(from_origin("upstream", url=upstream.url))
    assert len(upstream.requests) == 6


@pytest.mark.usefixtures("cache")
def test_a_server_that_keeps_failing_is_given_up(upstream: Upstream) -> None:
    upstream.failures = 100
    with pytest.raises(InputError, match=rf"upstream: {upstream.url}/{IMAGES}\.gz: the server answers 503"):
        files.read_files(from_origin("upstream", url=upstream.url))
    assert len(upstream.requests) == 3


def test_a_missing_file_is_not_asked_for_again(
    upstream: Upstream, cache: Path, fashion_mnist_gz: Path, tmp_path: Path
) -> None:
    upstream.folder = copied(fashion_mnist_gz, tmp_path / "served")
    (upstream.folder / f"{LABELS}.gz").unlink()
    with pytest.raises(InputError, match=rf"{LABELS}\.gz: the server answers 404"):
        files.read_files(from_origin("upstream", url=upstream.url))
    assert len(upstream.requests) == 4
    assert (cache / f"{IMAGES}.gz").exists(), "what was fetched stays"


def test_an_answer_that_breaks_off_is_no_file(upstream: Upstream, cache: Path) -> None:
    upstream.cut = True
    with pytest.raises(InputError, match=rf"{IMAGES}\.gz: .*tried 3 times"):
        files.read_files(from_origin("upstream", url=upstream.url))
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_a_server_that_is_silent_is_given_up(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HTTP_TIMEOUT", 0.1)
    upstream.delay = threading.Event()
    with pytest.raises(InputError, match="timed out; tried 3 times"):
        files.read_files(from_origin("upstream", url=upstream.url))
    upstream.delay.set()


def test_other_content_is_refused_and_not_kept(
    upstream: Upstream, cache: Path, fashion_mnist_gz: Path, tmp_path: Path
) -> None:
    upstream.folder = copied(fashion_mnist_gz, tmp_path / "served")
    (upstream.folder / f"{IMAGES}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(InputError, match=rf"has SHA-256 .*, upstream's {IMAGES} has {files.SHA256[IMAGES]}"):
        files.read_files(from_origin("upstream", url=upstream.url))
    assert list(cache.iterdir()) == []


def test_a_damaged_cache_is_mended_from_upstream(
    upstream: Upstream, cache: Path, fashion_mnist_gz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(fashion_mnist_gz, cache)
    damaged = cache / f"{LABELS}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    monkeypatch.setenv("PATH", "")
    assert digests(files.read_files(from_origin("auto", url=upstream.url))) == files.SHA256


@pytest.mark.usefixtures("cache")
def test_auto_says_why_each_place_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(files, "BACKOFF", 0.0)
    with pytest.raises(InputError) as caught:
        files.read_files(from_origin("auto"))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [
        "cache",
        "installed Debian package",
        "fetched Debian package",
        "upstream",
    ]
    assert "apt-get: not found" in lines[3]
    assert "Connection refused" in lines[4]
    assert "origin 'folder'" in lines[5]


def test_the_installed_package_is_used(cache: Path, fashion_mnist_gz: Path) -> None:
    copied(fashion_mnist_gz, files.ROOT / files.DEBIAN_FOLDER)
    assert digests(files.read_files(from_origin("debian"))) == files.SHA256
    assert not cache.exists()


def apt_repository(folder: Path, content: Path) -> None:
    """A Debian repository with the one package, its files under their place in the system."""
    root = folder / "package"
    shutil.copytree(content, root / files.DEBIAN_FOLDER)
    fields = {"Package": files.DEBIAN_PACKAGE, "Version": "1", "Architecture": "all"}
    fields |= {"Maintainer": "nobody", "Description": "test"}
    control = "".join(f"{key}: {value}\n" for key, value in fields.items())
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(control)
    package = folder / f"{files.DEBIAN_PACKAGE}_1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", root, package], check=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    stanza = f"{control}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    (folder / "Packages").write_text(stanza)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt of a fresh machine: no package lists; its only source a repository of ours, still empty."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("needs apt-get and dpkg-deb")
    repository = tmp_path / "repository"
    (tmp_path / "no-lists" / "partial").mkdir(parents=True)
    repository.mkdir()
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{tmp_path / "sources.list"}";\nDir::Etc::SourceParts "-";\n'
        f'Dir::State::Lists "{tmp_path / "no-lists"}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return repository


def test_the_package_is_fetched_without_being_installed(apt: Path, cache: Path, fashion_mnist_gz: Path) -> None:
    apt_repository(apt, fashion_mnist_gz)
    settings = from_origin("debian")
    assert digests(files.read_files(settings)) == files.SHA256
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in files.SHA256)
    assert not files.ROOT.exists()

    shutil.rmtree(apt)
    assert digests(files.read_files(settings)) == files.SHA256, "the second time from the cache"


def test_a_package_with_other_content_is_refused(
    apt: Path, cache: Path, fashion_mnist_gz: Path, tmp_path: Path
) -> None:
    other = copied(fashion_mnist_gz, tmp_path / "other")
    (other / f"{LABELS}.gz").write_bytes(gzip.compress(b"something else"))
    apt_repository(apt, other)
    with pytest.raises(InputError, match=rf"fetched Debian package: .*{LABELS}\.gz: its uncompressed content has"):
        files.read_files(from_origin("debian"))
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_a_repository_without_the_package_is_named(apt: Path) -> None:
    (apt / "Packages").write_text("")
    with pytest.raises(InputError, match=rf"apt-get failed with status 100: .*{files.DEBIAN_PACKAGE}"):
        files.read_files(from_origin("debian"))


@pytest.mark.usefixtures("cache")
def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot be made .*; set VITRINE_CACHE"):
        files.read_files(from_origin("upstream"))


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        files.read_files(from_origin("folder", tmp_path / "nowhere"))


def test_a_missing_file_is_named(fashion_mnist_gz: Path, tmp_path: Path) -> None:
    folder = copied(fashion_mnist_gz, tmp_path / "given")
    (folder / f"{LABELS}.gz").unlink()
    with pytest.raises(InputError, match=rf"{LABELS}\[\.gz\]: not found"):
        files.read_files(from_origin("folder", folder))


def test_a_truncated_file_is_named(fashion_mnist_gz: Path, tmp_path: Path) -> None:
    folder = copied(fashion_mnist_gz, tmp_path / "given")
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match=rf"{IMAGES}\.gz: damaged: .*delete it or replace it"):
        files.read_files(from_origin("folder", folder))


def test_one_changed_pixel_is_noticed(fashion_mnist: Path, tmp_path: Path) -> None:
    folder = copied(fashion_mnist, tmp_path / "given")
    content = bytearray((folder / IMAGES).read_bytes())
    content[5_000_000] ^= 1
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(InputError, match=rf"{IMAGES}: its uncompressed content has SHA-256"):
        files.read_files(from_origin("folder", folder))
