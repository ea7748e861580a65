"""What is computed of real images, kept between evaluations: it changes only with the data and the network."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.dataset import Split
from components.errors import InputError
from components.features import FeatureExtractor, Features, extract
from components.files import cache_folder, written_whole
from components.protocol import VERSION
from components.sampling import real_images

KEPT = 4
"""Files of a series that are kept: those used last."""
KINDS = ("features", "logits", "distances")

Tensors = dict[str, Tensor]
Compute = Callable[[Tensors | None], Tensors]


def network_key(extractor: FeatureExtractor) -> dict[str, str]:
    """Everything that a network's output for given pixels depends on."""
    return {
        "extractor": extractor.name,
        "weights": extractor.weights_sha256,
        "resolution": str(extractor.resolution),
        "resize": extractor.resize,
    }


def rows_key(dataset_digest: str, rows: NDArray[np.int64]) -> dict[str, str]:
    """Which images of a split are meant."""
    return {"dataset": dataset_digest, "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()}


def cached_features(
    extractor: FeatureExtractor,
    split: Split,
    rows: NDArray[np.int64],
    *,
    dataset_digest: str,
    name: str,
    batch_size: int,
    logits: bool = False,
    pairs: bool = False,
) -> Features:
    """Features of some of a split's images, from the cache or computed and put there.

    Of another version of the dataset, only images pass through the network whose pixels the file used
    last does not know; with `pairs`, both of a pair that it does not know as a pair.

    Args:
        extractor: already on the device that computes.
        split: where the images are.
        rows: which of them.
        dataset_digest: `DatasetInfo.digest`.
        name: of the split.
        batch_size: images in one pass through the network.
        logits: class logits too; else they are (N, 0).
        pairs: distances of images 2i and 2i + 1 too; else there are none.

    Raises:
        InputError: the folder cannot be written.
    """
    series = {**network_key(extractor), "of": f"features of {name}", "logits": str(logits), "pairs": str(pairs)}

    step = 2 if pairs else 1
    # What is known together: an image, or a pair. An odd image at the end is its own pair.
    units_NS = np.pad(rows, (0, -len(rows) % step), mode="edge").reshape(-1, step)

    def compute(earlier: Tensors | None) -> Tensors:
        hashes_NB = _pixel_hashes(split, units_NS)
        known = {row.tobytes(): place for place, row in enumerate(earlier["hashes"].numpy())} if earlier else {}
        places_N = np.array([known.get(row.tobytes(), -1) for row in hashes_NB.numpy()])
        wanted = units_NS[places_N < 0].ravel()
        parts = [] if earlier is None else [earlier]
        if len(wanted):
            chunks, label = real_images(split, wanted), f"real images ({name})"
            found = extract(extractor, chunks, total=len(wanted), batch_size=batch_size, label=label, pairs=pairs)
            parts.append(_per_unit(found, step, logits))
        places_N[places_N < 0] = (len(earlier["hashes"]) if earlier else 0) + np.arange(len(wanted) // step)
        order_N = torch.from_numpy(places_N)
        return {"hashes": hashes_NB, **{key: torch.cat([part[key] for part in parts])[order_N] for key in KINDS}}

    found = cached(series, rows_key(dataset_digest, rows), compute)
    features_ND, logits_NK = (found[key].flatten(0, 1)[: len(rows)] for key in ("features", "logits"))
    return Features(features_ND, logits_NK, found["distances"].flatten()[: len(rows) // 2 if pairs else 0])


def _per_unit(found: Features, step: int, logits: bool) -> Tensors:
    """A network's findings, a row per unit of `step` images."""
    distances = found.pair_distances if step == 2 else torch.empty(len(found.features_ND), 0)
    return {
        "features": found.features_ND.unflatten(0, (-1, step)),
        "logits": found.logits_NK[:, : None if logits else 0].unflatten(0, (-1, step)),
        "distances": distances.reshape(len(found.features_ND) // step, -1),
    }


def _pixel_hashes(split: Split, units_NS: NDArray[np.int64]) -> Tensor:
    """Of the pixels of each unit's images, uint8 (N, 16)."""
    hashes_NB = np.empty((len(units_NS), 16), np.uint8)
    for hash_B, rows in zip(hashes_NB, units_NS, strict=True):
        hash_B[:] = np.frombuffer(hashlib.blake2b(split.gather(rows).tobytes(), digest_size=16).digest(), np.uint8)
    return torch.from_numpy(hashes_NB)


def cached(series: Mapping[str, str], version: Mapping[str, str], compute: Compute) -> Tensors:
    """Tensors from the cache, or computed and put there.

    Of several processes that want the same at once, one computes and the others wait. A damaged file
    is computed again. Of a series the KEPT files used last stay. The folder is named by VITRINE_CACHE.

    Args:
        series: what the tensors depend on that is the same for all versions of a dataset.
        version: what else they depend on.
        compute: gets those of the series' file used last, or None.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = cache_folder("features")
    # What older code has computed may mean something else.
    series = {**series, "code": str(VERSION)}
    prefix, key = _name(series), {**series, **version}
    path = folder / f"{prefix}-{_name(key)}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(path.with_suffix(".lock"))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder}: cannot be written ({error}); let VITRINE_CACHE name another folder") from None
    with lock:
        tensors = _read(path, key)
        if tensors is None:
            tensors = compute(_newest(folder, prefix))
            _write(path, key, tensors)
        path.touch()
        for old in _by_use(folder, prefix)[KEPT:]:
            old.unlink(missing_ok=True)
        return tensors


def _name(key: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _by_use(folder: Path, prefix: str) -> list[Path]:
    """Files of a series, that used last first."""
    return sorted(folder.glob(f"{prefix}-*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest(folder: Path, prefix: str) -> Tensors | None:
    """Tensors of the series' file used last, or None if there is none that can be used."""
    for path in _by_use(folder, prefix)[:1]:
        try:
            return _checked(path)[1]
        except (SafetensorError, OSError, ValueError):
            return None
    return None


def _locked(path: Path) -> FileLock:
    """The lock, taken; says so if it must wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print("waiting for another process that computes the same of real images", flush=True)
        lock.acquire()
    return lock


def _read(path: Path, key: Mapping[str, str]) -> Tensors | None:
    """The tensors, or None if there is no usable file."""
    if not path.exists():
        return None
    try:
        found, tensors = _checked(path)
        if found != key:
            raise ValueError("it is of something else")
    except (SafetensorError, OSError, ValueError) as error:
        print(f"{path}: damaged ({error}); computed again", flush=True)
        return None
    print(f"evaluate: {key.get('of', 'tensors')} from the cache", flush=True)
    return tensors


def _checked(path: Path) -> tuple[dict[str, str], Tensors]:
    """Key and tensors of a file.

    Raises:
        SafetensorError, OSError, ValueError: it is damaged.
    """
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    if metadata.pop("sha256", None) != _digest(tensors):
        raise ValueError("its content is not what was written")
    return metadata, tensors


def _write(path: Path, key: Mapping[str, str], tensors: Tensors) -> None:
    with written_whole(path) as temporary:
        # Not its save_file: on a full disk that raises an error of its own instead of the system's.
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        temporary.write_bytes(save(whole, metadata={**key, "sha256": _digest(whole)}))


def _digest(tensors: Tensors) -> str:
    """safetensors checks shapes and lengths, not the numbers themselves."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
