"""The stages and what they compute with."""

import os

# Before torch is imported. OpenMP's threads spin while they wait; where another process wants the core
# (two trainings on one machine, tests side by side) each waits for the other, and torch was seen to run
# ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Before MLflow and the others are imported: a `dvc repro` without our services phones home no more than with them.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
