"""Stages of a run and the functions behind the commands."""
