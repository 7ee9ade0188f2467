"""Estimates of memory and time, from a recipe and a model's config."""
