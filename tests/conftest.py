"""Small real data for the unit tests."""

import gzip
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from components.errors import InputError
from components.ingest import ingest
from components.raw import Photo, write_part, write_snapshot
from components.settings import DataSettings, FashionMnistSettings, S3Settings, Settings, load_settings
from components.sources.fashion_mnist_files import SHA256, installed, read_files

PROJECT = Path(__file__).parents[1]

MakeDataSettings = Callable[..., DataSettings]
MakeRaw = Callable[[Path, Iterable[Photo]], Path]


@pytest.fixture(autouse=True)
def _no_experiment_left_behind() -> Iterator[None]:
    """MLflow tells child processes the chosen experiment in a variable, which must not reach the next test's."""
    yield
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests compute or note down stays out of the project's cache, and they find nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def fashion_mnist_gz() -> Path:
    """Folder of Fashion-MNIST's four .gz files, got as `make run` gets them; kept in the project's cache."""
    nowhere = FashionMnistSettings(origin="auto", folder=None, url="http://fashion-mnist.invalid")
    for folder in (os.environ.get("VITRINE_FASHION_MNIST"), installed(nowhere)):
        if folder and Path(folder).is_dir():
            return Path(folder)
    cache = PROJECT / ".vitrine" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    settings = load_settings(PROJECT / "params.yaml").data.fashion_mnist
    with FileLock(cache / ".tests.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_CACHE", str(cache))
        try:
            read_files(settings.model_copy(update={"origin": "auto"}))
        except InputError as error:
            pytest.fail(f"give the data set's folder in VITRINE_FASHION_MNIST: {error}")
    return cache / "fashion-mnist"


@pytest.fixture(scope="session")
def fashion_mnist(fashion_mnist_gz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as plain files: reading them takes a fifth of the time."""
    folder = tmp_path_factory.mktemp("fashion-mnist")
    for name in SHA256:
        (folder / name).write_bytes(gzip.decompress((fashion_mnist_gz / f"{name}.gz").read_bytes()))
    return folder


@pytest.fixture(scope="session")
def data_settings(fashion_mnist: Path) -> MakeDataSettings:
    """Makes settings of ingest for a subset of the data set."""

    def make(subset: int, part_rows: int = 200) -> DataSettings:
        origin = FashionMnistSettings(origin="folder", folder=str(fashion_mnist), url="http://fashion-mnist.invalid")
        return DataSettings(
            source="fashion-mnist",
            path=None,
            s3=S3Settings(url=None, endpoint=None, profile=None),
            license=None,
            removals=None,
            file_bytes=10**6,
            subset=subset,
            part_rows=part_rows,
            fashion_mnist=origin,
        )

    return make


@pytest.fixture(scope="session")
def clothing() -> Path:
    """Folder of 3,781 real product photos, 10 categories, not part of the project."""
    folder = os.environ.get("VITRINE_CLOTHING", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the clothing photos: set VITRINE_CLOTHING to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The project's own params.yaml."""
    return load_settings(PROJECT / "params.yaml")


@pytest.fixture(scope="session")
def raw_dir(data_settings: MakeDataSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/raw of 500 photos; not to be written to."""
    folder = tmp_path_factory.mktemp("data") / "raw"
    ingest(data_settings(500), folder)
    return folder


@pytest.fixture(scope="session")
def make_raw() -> MakeRaw:
    """Writes photos of one's own as data/raw, in one part."""

    def make(folder: Path, photos: Iterable[Photo]) -> Path:
        rows = [photo.row() for photo in photos]
        name = write_part(rows, folder)
        write_snapshot(folder, {str(row["id"]): name for row in rows})
        return folder

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Encodes an image or an array as the bytes of a file."""

    def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture.save(buffer, format=kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Photo]:
    """Makes a photo that the project's suite accepts, but for what is given."""

    def make(image: bytes, number: int, category: str = "bag", attributes: Mapping[str, str] | None = None) -> Photo:
        return Photo(
            image=image,
            file_name=f"train/{number:05}.png",
            category=category,
            split_hint="train",
            license="MIT",
            source="test",
            attributes=attributes or {},
        )

    return make
