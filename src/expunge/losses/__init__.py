"""Loss functions on tensors: no model, no data."""
