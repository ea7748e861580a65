"""What freed memory costs the next one who asks for it, counted in pages that the system had to fill."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from components.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def batch():
    return [np.ones(25 * 2**20, np.uint8) for _ in range(4)]
batch(), batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    project = Path(__file__).parents[2]
    return int(
        subprocess.run([sys.executable, "-c", PROGRAM, mode], cwd=project, capture_output=True, check=True).stdout
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_memory_is_used_again_without_asking_the_system() -> None:
    assert faults("keep") * 10 < faults("plain")
