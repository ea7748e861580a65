"""The stages and what they compute with."""

import os

# Before torch is imported. OpenMP's threads spin while they wait; where another process wants the core
# (two trainings on one machine, tests side by side) each waits for the other, and torch was seen to run
# ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
