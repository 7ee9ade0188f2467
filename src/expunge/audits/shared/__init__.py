"""What several audits have in common: the attacked models, measurements of rows, and comparisons of models."""
