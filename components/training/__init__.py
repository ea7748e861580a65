"""How a model is trained, whatever its family: batches, randomness, schedules, checkpoints, checks on the way."""
