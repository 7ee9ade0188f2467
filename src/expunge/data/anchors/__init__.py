"""Anchor terms: names that only one text has, and the passages around them."""
