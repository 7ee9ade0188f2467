"""Speed and memory benchmarks against plain implementations, run as modules: `python -m perf.training`."""
