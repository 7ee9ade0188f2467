"""Records become tokens: forget, retain and holdout sets, prompts, masks and batches."""
