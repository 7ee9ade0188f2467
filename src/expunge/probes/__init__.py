"""The evaluators that run a model: scoring and generation."""
