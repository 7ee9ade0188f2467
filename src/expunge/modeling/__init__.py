"""Models: loading, adapters, log-probabilities, frozen references, and the training step."""
