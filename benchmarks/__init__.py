"""Benchmarks: what the engine takes on this machine, beside other engines in the same hour. `python -m benchmarks.run`."""
