"""Loss functions on tensors, independent of models and data."""
