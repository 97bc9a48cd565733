"""The code of runs: packed when they begin, imported from the pack, compared by fingerprints."""
