"""Common parts of audits: the attacked models, measurements of rows, and comparisons of models."""
