"""Depth: patch hidden states into the target, and read them through its output layer."""

from expunge.audits.depth.audit import Depth

__all__ = ["Depth"]
