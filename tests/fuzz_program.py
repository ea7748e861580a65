"""ingest and validate, on a folder of files of whatever kind; prints how much memory that took.

python -m tests.fuzz_program FOLDER OUT LIMITS
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

from components.ingest import ingest
from components.settings import (
    CategorySettings,
    DataSettings,
    DecodingSettings,
    DriftSettings,
    ExpectationSettings,
    FashionMnistSettings,
    S3Settings,
    ValidateSettings,
)
from components.validate import Places, validate

LAX = ValidateSettings(
    tolerance=1.0,
    undecodable=1.0,
    categories=CategorySettings(allowed=None, min_photos=1),
    attributes={},
    licenses=None,
    drift=DriftSettings(category_kl=None, brightness_kl=None, accept=None),
    suite=[ExpectationSettings(type="expect_column_values_to_not_be_null", level="row", kwargs={"column": "id"})],
)


def data_of(folder: str) -> DataSettings:
    return DataSettings(
        source="folder",
        path=folder,
        s3=S3Settings(url=None, endpoint=None, profile=None),
        license=None,
        removals=None,
        file_bytes=20 * 2**20,
        subset=None,
        part_rows=500,
        fashion_mnist=FashionMnistSettings(origin="folder", folder="none", url="http://fashion-mnist.invalid"),
    )


def main() -> None:
    folder, out = sys.argv[1], Path(sys.argv[2])
    limits = DecodingSettings.model_validate_json(sys.argv[3])
    peaks = {"helper": 0, "guarded": 0}
    Thread(target=watch, args=(peaks,), daemon=True).start()
    ingest(data_of(folder), out / "raw")
    places = ("raw", "validated", "approved", "docs", "validation.json", "validation.html")
    validate(LAX, limits, Places(*(out / place for place in places)))
    print(json.dumps(peaks | {"program": peak(os.getpid())}))


def watch(peaks: dict[str, int]) -> None:
    """Notes the peaks of the helper program and of the processes that it forks, again and again."""
    while True:
        for helper in psutil.Process().children():
            for process, kind in [(helper, "helper"), *((child, "guarded") for child in children_of(helper))]:
                peaks[kind] = max(peaks[kind], peak(process.pid))
        time.sleep(0.05)


def children_of(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children()
    return []


def peak(pid: int) -> int:
    """Resident memory of a process at its most, bytes; 0 if it is gone.

    What getrusage says begins with what the process had that started it.
    """
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return 0


if __name__ == "__main__":
    main()
