import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from components.downloads import local_file
from components.errors import InputError

CONTENT = bytes(range(256)) * 100


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server of the folder `served`, which holds weights.bin."""
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.bin").write_bytes(CONTENT)
    handler = partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_is_downloaded_once(address: str, tmp_path: Path) -> None:
    path = local_file(f"{address}/weights.bin", "models")
    assert path.is_relative_to(tmp_path / "cache" / "models")
    assert path.name == "weights.bin"
    assert path.read_bytes() == CONTENT
    (tmp_path / "served" / "weights.bin").write_bytes(b"other")
    assert local_file(f"{address}/weights.bin", "models").read_bytes() == CONTENT


def test_two_addresses_have_files_of_their_own(address: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "a").mkdir()
    (tmp_path / "served" / "a" / "weights.bin").write_bytes(b"other")
    first, second = (local_file(f"{address}/{name}", "models") for name in ("weights.bin", "a/weights.bin"))
    assert first.read_bytes() == CONTENT
    assert second.read_bytes() == b"other"


def test_an_altered_copy_is_refused(address: str) -> None:
    path = local_file(f"{address}/weights.bin", "models")
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InputError, match=r"weights\.bin: SHA-256 is .* delete .* to download it again"):
        local_file(f"{address}/weights.bin", "models")


def test_what_cannot_be_had_is_said(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.bin: cannot be downloaded .*404"):
        local_file(f"{address}/missing.bin", "models")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/x: cannot be downloaded .* give its path"):
        local_file("http://127.0.0.1:9/x", "models")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    local_file(f"{address}/weights.bin", "models")


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    assert local_file(str(tmp_path / "weights.bin"), "models") == tmp_path / "weights.bin"
    with pytest.raises(InputError, match=r"evaluate\.weights is '.*missing', no such file"):
        local_file(str(tmp_path / "missing"), "models")
