"""Sizes as people say them: `memory=2 * GiB`. Imports nothing."""

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
