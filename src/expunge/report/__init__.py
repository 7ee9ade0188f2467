"""Turns records into a page that a person reads; needs no torch."""
