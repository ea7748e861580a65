"""Measures the champion again: on the current photos, with the seeds and the networks that the candidate had."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from components.dataset import load_info
from components.errors import InputError
from components.evaluate import assert_fits
from components.generative import GenerativeModel, load_card, load_model
from components.measuring import measure_model
from components.packaging import weights_folder
from components.policy import Baseline
from components.production import check_package
from components.registry.state import Reign
from components.settings import EvaluateSettings
from components.signing import required_key


@contextmanager
def registered_weights(name: str, version: str, weights_sha256: str | None) -> Iterator[Path]:
    """Yields the folder with a version's weights and card, as the registry hands them out.

    Raises:
        InputError: they cannot be fetched, are others than expected, or not signed although that is asked for.
    """
    with tempfile.TemporaryDirectory() as scratch:
        uri = f"models:/{name}/{version}"
        try:
            package = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
        except (MlflowException, OSError) as error:
            raise InputError(f"{uri}: its files cannot be fetched: {error}; is the store complete?") from error
        check_package(package, weights_sha256, required_key())
        yield weights_folder(package)


def measured_champion(
    name: str, champion: Reign, settings: EvaluateSettings, prepared_dir: Path
) -> tuple[Baseline, GenerativeModel]:
    """The champion's measurement, and the champion; what was measured of it before plays no part.

    Raises:
        InputError: it cannot be had, is not what was promoted, or was made for other images.
    """
    assert champion.version is not None
    print(f"{name}: measuring champion {champion.version} on the current split", flush=True)
    with registered_weights(name, champion.version, champion.weights_sha256) as folder:
        card = load_card(folder)
        assert_fits(card, load_info(prepared_dir), f"champion {champion.version}")
        model = load_model(folder)
        measured = measure_model(model, card.weights_sha256, settings, prepared_dir)
    return Baseline(champion.version, measured.measurement), model
