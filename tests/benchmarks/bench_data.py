"""ingest, validate and prepare on real photos, against a bare loop that only decodes and resizes.

    python -m tests.benchmarks.bench_data FOLDER [--times 10] [--rounds 3]

Ratios of one run on one machine; medians of the rounds.
"""

import argparse
import io
import os
import random
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from components.choose import choose_source
from tests.benchmarks.measuring import PROJECT, Measured, cpu_of_children, measured

SIZE = 64
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def decode_and_resize(path: Path) -> int:
    """What any pipeline has to do at least."""
    with Image.open(path) as image:
        return len(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS).tobytes())


def bare_loop(paths: list[Path], processes: int) -> Measured:
    started, cpu_before = time.perf_counter(), cpu_of_children()
    with ProcessPoolExecutor(processes) as pool:
        assert sum(pool.map(decode_and_resize, paths, chunksize=64)) == len(paths) * SIZE * SIZE * 3
    return Measured(time.perf_counter() - started, cpu_of_children() - cpu_before, 0.0)


class Workplace:
    """A copy of the photos, params.yaml for them, and empty caches."""

    def __init__(self, root: Path, source: Path) -> None:
        self.root, self.photos = root, root / "photos"
        shutil.copytree(source, self.photos)
        self.params = root / "params.yaml"
        shutil.copy(PROJECT / "params.yaml", self.params)
        choose_source(self.params, str(self.photos))
        self.environment = {**os.environ, "VITRINE_CACHE": str(root / "cache")}

    def ingest(self) -> Measured:
        return self._stage("ingest", "--out", "data/raw", "--report", "ingest.json")

    def validate(self) -> Measured:
        return self._stage(
            *("validate", "--raw", "data/raw", "--out", "data/validated", "--docs", "docs"),
            *("--approved", "data/approved", "--report", "validation.json", "--page", "validation.html"),
        )

    def prepare(self) -> Measured:
        return self._stage(
            *("prepare", "--raw", "data/raw", "--validated", "data/validated", "--out", "data/prepared"),
            *("--cleaning", "data/cleaning", "--approved", "data/approved", "--validation", "validation.json"),
            *("--report", "prepared.json", "--page", "dataset.html"),
        )

    def _stage(self, name: str, *arguments: str) -> Measured:
        paths = [word if word.startswith("--") else str(self.root / word) for word in arguments]
        return measured([f"components.{name}", "--params", str(self.params), *paths], self.environment)

    def all(self) -> dict[str, Measured]:
        return {"ingest": self.ingest(), "validate": self.validate(), "prepare": self.prepare()}

    def start_anew(self) -> None:
        for name in ("data", "cache", "docs"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def other_photo(path: Path, generator: random.Random) -> bytes:
    """A different photo made of one: a part of it, mirrored or not, in other colours."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    width, height = photo.size
    side = generator.uniform(0.5, 0.7)
    left, top = generator.uniform(0, 1 - side) * width, generator.uniform(0, 1 - side) * height
    part = photo.crop((int(left), int(top), int(left + side * width), int(top + side * height))).resize((width, height))
    bands = list(part.split())
    generator.shuffle(bands)
    part = Image.merge("RGB", bands)
    buffer = io.BytesIO()
    (ImageOps.mirror(part) if generator.random() < 0.5 else part).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def add_photos(originals: list[Path], count: int, generator: random.Random) -> None:
    """Writes new photos beside the ones that they are made of."""
    for number in range(count):
        original = originals[number % len(originals)]
        name = f"more-{generator.getrandbits(64):016x}.jpg"
        (original.parent / name).write_bytes(other_photo(original, generator))


def told(name: str, values: list[float]) -> None:
    shown = ", ".join(f"{value:.3f}" for value in values)
    print(f"{name:<60} {statistics.median(values):10.3f}   of {shown}", flush=True)


def seconds(stages: dict[str, Measured]) -> float:
    return sum(stage.seconds for stage in stages.values())


def cpu_seconds(stages: dict[str, Measured]) -> float:
    return sum(stage.cpu_seconds for stage in stages.values())


def one_round(place: Workplace, photos: list[Path], processes: int) -> dict[str, float]:
    """From nothing, then once more with nothing new."""
    place.start_anew()
    bare = bare_loop(photos, processes)
    stages = place.all()
    total = seconds(stages)
    again = place.ingest()
    return {
        "bare loop: photos/s per core": len(photos) / bare.seconds / processes,
        "ingest+validate+prepare: photos/s per core": len(photos) / total / processes,
        "ratio to the bare loop": bare.seconds / total,
        "ratio to the bare loop, processor time": bare.cpu_seconds / cpu_seconds(stages),
        "bare loop: processor s": bare.cpu_seconds,
        **{f"{name}: s": stage.seconds for name, stage in stages.items()},
        **{f"{name}: processor s": stage.cpu_seconds for name, stage in stages.items()},
        **{f"{name}: peak MiB": stage.peak_mb for name, stage in stages.items()},
        "full time: s": total,
        "full processor time: s": cpu_seconds(stages),
        "ingest again, nothing new: share of the full time": again.seconds / total,
        "ingest again, nothing new: share, processor time": again.cpu_seconds / cpu_seconds(stages),
    }


def one_percent(place: Workplace, photos: list[Path], full: float, full_cpu: float) -> None:
    add_photos(photos, len(photos) // 100, random.Random(1))
    stages = place.all()
    told("ingest, 1 % new: share of the full time", [stages["ingest"].seconds / full])
    told("ingest, 1 % new: share, processor time", [stages["ingest"].cpu_seconds / full_cpu])
    told("ingest+validate+prepare, 1 % new: share of the full time", [seconds(stages) / full])
    told("ingest+validate+prepare, 1 % new: share, processor time", [cpu_seconds(stages) / full_cpu])


def many_photos(place: Workplace, photos: list[Path], times: int, processes: int, peaks: dict[str, float]) -> None:
    add_photos(photos, len(photos) * (times - 1), random.Random(2))
    place.start_anew()
    bare = bare_loop(photos_in(place.photos), processes)
    stages = place.all()
    told(f"{times}x photos: ratio to the bare loop", [bare.seconds / seconds(stages)])
    told(f"{times}x photos: ratio to the bare loop, processor time", [bare.cpu_seconds / cpu_seconds(stages)])
    for name, stage in stages.items():
        told(f"{times}x photos: {name}: s", [stage.seconds])
        told(f"{times}x photos: {name}: processor s", [stage.cpu_seconds])
        told(f"{times}x photos: {name}: peak MiB", [stage.peak_mb])
        told(f"{times}x photos: {name}: peak memory against 1x", [stage.peak_mb / peaks[name]])


def bench(source: Path, rounds: int, times: int) -> None:
    processes = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as scratch:
        place = Workplace(Path(scratch), source)
        photos = photos_in(place.photos)
        print(f"{len(photos)} photos, {processes} processes, {rounds} rounds", flush=True)
        results = [one_round(place, photos, processes) for _ in range(rounds)]
        found = {name: [result[name] for result in results] for name in results[0]}
        for name, values in found.items():
            told(name, values)
        full, full_cpu = (statistics.median(found[name]) for name in ("full time: s", "full processor time: s"))
        one_percent(place, photos, full, full_cpu)
        if times > 1:
            peaks = {name: statistics.median(found[f"{name}: peak MiB"]) for name in ("ingest", "validate", "prepare")}
            many_photos(place, photos, times, processes, peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="photos by category")
    parser.add_argument("--times", type=int, default=10, help="measure memory at so many times the photos (1: no)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    bench(args.folder, args.rounds, args.times)


if __name__ == "__main__":
    main()
