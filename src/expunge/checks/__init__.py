"""Checks of a recipe before it runs, without loading weights."""
