"""python -m dagengine.runtime.simulation SEED: run it again, and print what happens.

SEED             the trace of one run, and what it came to
FROM-TO          many: the failing ones with one line each
--shrink         of a failing SEED: the smallest part that fails, too
--quiet          no trace
"""

from __future__ import annotations

import argparse
import sys

from dagengine.runtime.simulation import running
from dagengine.runtime.simulation.scenario import make


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dagengine.runtime.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("seed", metavar="SEED", help="a number, or FROM-TO")
    parser.add_argument("--shrink", action="store_true", help="cut a failing seed down first")
    parser.add_argument("--quiet", action="store_true", help="no trace")
    options = parser.parse_args()
    first, dash, last = options.seed.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        parser.error(f"{options.seed} is no seed: give a number, or FROM-TO")
    if dash:
        found = running.failing(range(int(first), int(last)))
        for seed, what in found:
            print(f"{seed}: {what}")
        print(f"{len(found)} of {int(last) - int(first)} seeds fail")
        return 1 if found else 0
    scenario = make(int(first))
    if options.shrink:
        scenario = running.shrink(scenario)
        print(f"units {[unit.number for unit in scenario.units]}, faults {scenario.faults}")
    print(f"features: {', '.join(sorted(scenario.features)) or 'none'}")
    try:
        report = running.run(scenario, None if options.quiet else print)
    except Exception as error:
        print(f"seed {first} fails: {type(error).__name__}: {error}")
        return 1
    print(f"seed {first}: {report.events} events, {report.seconds:.1f} s, {report.outcomes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
