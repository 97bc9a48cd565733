"""Where in the arena the next object goes: pure arithmetic on ranges of a large address space, in bytes.

    live   handed out
    warm   free, and its pages are kept, because writing to them again costs a tenth of getting new ones
    cold   free, and without pages

Invariants: ranges never overlap and are whole pages; live + warm never exceeds `limit`. The address space (`size`) is
several times the limit, so that fragmentation can't refuse what fits.

Imports nothing of ours.
"""
