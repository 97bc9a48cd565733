"""A seeded simulator that drives the scheduler core through nodes, networks and faults, in one process. docs/simulation.md."""
