"""What families with an encoder share: likelihoods, divergences, and the density of their latents."""
