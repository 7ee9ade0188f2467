"""The one trainer, its batches and its checkpoints."""
