"""Checks of a recipe before it runs: settings and inputs."""
