"""The command: measure workloads, each in fresh processes on fresh stores, and print a table.

python -m benchmarks.run                          all workloads, three times each
python -m benchmarks.run fan chain --repeat 5
python -m benchmarks.run --json FILE              the figures of every run, for programs
python -m benchmarks.run --peers FOLDER --env dbos=ENV/bin/python     other engines' figures beside ours
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from benchmarks import machine, measure, peers, table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(f"{name} ({workload.what})" for name, workload in measure.WORKLOADS.items())
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {names}; all if none is named")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each workload (3)")
    parser.add_argument("--n", type=int, help="size, instead of each workload's own")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine and figures there, too (-: print them)"
    )
    parser.add_argument("--peers", type=Path, action="append", default=[], metavar="FOLDER", help="of bench_NAME.py")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=PYTHON", help="an engine, and the Python that has it"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in measure.WORKLOADS]:
        parser.error(f"no workload {unknown[0]}. There are: {', '.join(measure.WORKLOADS)}")
    if any("=" not in pair for pair in options.env):
        parser.error("--env takes NAME=PYTHON, as in dbos=ENV/bin/python")
    # SIGTERM ends as Ctrl-C does: with the processes that are being measured.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    engines = [
        (script, python)
        for name, _, python in (pair.partition("=") for pair in options.env)
        for script in peers.scripts(options.peers, name)
    ]
    known = machine.facts()
    quiet = str(options.json) == "-"

    def say(line: str) -> None:
        if not quiet:
            print(line, flush=True)

    say(machine.sentence(known))
    if known["filesystem"] == "tmpfs":
        say("note: the temporary folder is in memory, so nothing here is durable. Set TMPDIR to a folder on a disk.")
    results = []
    for name in options.workloads or measure.WORKLOADS:
        result = measure.run(name, measure.WORKLOADS[name], options.n, options.repeat, options.workers)
        results.append(result)
        say(f"  {name}: {table.number(result.median)} {result.unit}")
    others = []
    for script, python in engines:
        for other in peers.measure(script, python, results, options.repeat, options.workers):
            others.append(other)
            say(f"  {other.facts[-1]['peer']} {other.workload}: {table.number(other.median)} {other.unit}")
    say("\n" + "\n".join(table.lines(results, others)))
    if busy := [share for result in results for share in result.busy_before if share > 0.1]:
        say(f"\nnote: {max(busy):.0%} of the machine was busy before a run; the figures are too low by about as much.")
    if options.json:
        document = {
            "machine": known,
            "results": [result.to_json() for result in results],
            "peers": [other.to_json() for other in others],
        }
        text = json.dumps(document, indent=1)
        print(text) if quiet else options.json.write_text(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
