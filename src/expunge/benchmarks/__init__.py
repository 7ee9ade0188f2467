"""Benchmarks, one file each: which rows, which probes, which metrics, which headlines."""
