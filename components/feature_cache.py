"""Features of real images, kept between evaluations: they change only with the data and the network."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.errors import InputError
from components.features import FeatureExtractor
from components.files import cache_folder, written_whole


def cache_key(extractor: FeatureExtractor, dataset_digest: str, split: str, rows: NDArray[np.int64]) -> dict[str, str]:
    """Everything that the features of a split's rows depend on."""
    return {
        "dataset": dataset_digest,
        "split": split,
        "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        "extractor": extractor.name,
        "weights": extractor.weights_sha256,
        "resolution": str(extractor.resolution),
        "resize": extractor.resize,
    }


def cached_features(key: dict[str, str], compute: Callable[[], Tensor]) -> Tensor:
    """Features from the cache, or computed and put there.

    Of several processes that want the same features at once, one computes and the others wait.
    A damaged file is computed again. The folder is named by VITRINE_CACHE.

    Args:
        key: what the features depend on.
        compute: gives features (N, D), float32, on the CPU.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = cache_folder("features")
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder / f"{name}.lock")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder}: cannot be written ({error}); let VITRINE_CACHE name another folder") from None
    with lock:
        features_ND = _read(path, key)
        if features_ND is None:
            features_ND = compute()
            _write(path, key, features_ND)
        return features_ND


def _locked(path: Path) -> FileLock:
    """The lock, taken; says so if it must wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print("waiting for another process that computes the same features", flush=True)
        lock.acquire()
    return lock


def _read(path: Path, key: dict[str, str]) -> Tensor | None:
    """The features, or None if there is no usable file."""
    if not path.exists():
        return None
    problem = "its content is not what was written"
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata()
            features_ND: Tensor = file.get_tensor("features")
        if metadata == {**key, "sha256": _digest(features_ND)}:
            print(f"evaluate: features of {len(features_ND)} real images from the cache", flush=True)
            return features_ND
    except (SafetensorError, OSError) as error:
        problem = str(error)
    print(f"{path}: damaged ({problem}); the features are computed again", flush=True)
    return None


def _write(path: Path, key: dict[str, str], features_ND: Tensor) -> None:
    with written_whole(path) as temporary:
        # Not its save_file: on a full disk that raises an error of its own instead of the system's.
        temporary.write_bytes(save({"features": features_ND}, metadata={**key, "sha256": _digest(features_ND)}))


def _digest(tensor: Tensor) -> str:
    """safetensors checks shapes and lengths, not the numbers themselves."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
