# SPDX-License-Identifier: Apache-2.0
"""The benchmark: what others do and what ours does, on the same work, with the same rows.

The report goes to stdout in Markdown. The exit status is 1 when a peer has failed or written wrong rows, and
never because something was slow.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import whole
from benchmarks.airflow_peers import AIRFLOW, EXPAND
from benchmarks.choice import Choice
from benchmarks.measure import ROOT
from benchmarks.peers import JOBLIB, OURS, OURS_4, POOL, RAY
from benchmarks.workloads import CHECK, FULL, MAKERS, QUICK

PEERS = OURS, OURS_4, POOL, JOBLIB, RAY, AIRFLOW, EXPAND


def main() -> int:
    """Run the benchmark, print the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", action="store_const", const=QUICK, dest="mode", help="the default")
    modes.add_argument("--full", action="store_const", const=FULL, dest="mode", help="takes hours")
    modes.add_argument("--check", action="store_const", const=CHECK, dest="mode", help="looks at rows only")
    for option, names in {"--workload": tuple(MAKERS), "--peer": PEERS}.items():
        listed = f"one of {', '.join(names)}; repeatable"
        parser.add_argument(option, choices=names, action="append", default=[], metavar="NAME", help=listed)
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs of each peer with the loop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    parser.add_argument("--folder", type=Path, default=ROOT / ".benchmark", help="inputs and results")
    given = parser.parse_args()
    choice = Choice(given.mode or QUICK, given.workload, given.peer, given.pairs)
    report = whole.run(choice, given.folder.resolve())
    print(report.markdown())
    if given.json:
        given.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
