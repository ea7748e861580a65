"""Networks that the model families are put together from."""
