"""The `transformers.Trainer` subclass that runs every training, with its batches and callbacks."""
