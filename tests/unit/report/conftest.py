"""Fixtures of the report tests; their making is in report_runs.py."""

from report_runs import make_run

__all__ = ["make_run"]
