"""The run core: which steps are ready, retried, failed, skipped, cancelled, expanded, and what has to be written.

Pure: events in, actions out; no I/O, clock, threads or randomness. `states` has the table of transitions, `events` and
`actions` its two vocabularies; `step` and `ledger` what is kept, `chain` and `actors` stateful objects, `attempts` tries;
`core` is the machine, `invariants` what is true after each event.
"""
