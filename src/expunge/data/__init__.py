"""Load forget, retain and holdout sets and encode them as batches of token ids."""
