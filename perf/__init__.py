"""Speed and memory, against the plain way of doing the same: `python -m perf.training`."""
