"""Probes, the only code that runs a model to measure it: scoring, generation, gradient norms and embeddings."""
