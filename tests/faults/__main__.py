# SPDX-License-Identifier: Apache-2.0
"""Many runs with faults, and a table of what became of them: ``python tests/faults [-n N] [--store azure]``.

The exit status is 1 when anything was lost, doubled, torn, left over, done again, or did not survive.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# The stores' own: what is shared by all tests, and the demo's Azurite.
sys.path[1:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import checker
import fault_kinds
import fault_store
import store_kinds
from fault_case import FAST, FAST_OBJECTS, Case, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("runs", "injected", "survived", *checker.KINDS, "unexplained")


@dataclass(frozen=True)
class Place:
    """Where runs are.

    :param root: a folder for all of them
    :param kinds: what they may suffer
    :param endpoint: of the store that has their output and run directory; None: they are in the folder
    """

    root: Path
    kinds: dict[str, fault_kinds.Kind]
    endpoint: str | None


def run_one(name: str, seed: int, place: Place) -> Outcome:
    """Run one seed of a kind; its folder is kept when something was wrong."""
    rng = fault_kinds.generator(name, seed)
    folder = Path(tempfile.mkdtemp(prefix="fault-", dir=place.root))
    container = fault_store.Container(place.endpoint) if place.endpoint else None
    outcome = Case(place.kinds[name](rng), folder, rng, container).play()
    print(f"{name}, seed {seed}: {outcome.seconds:.1f} s, {len(outcome.injected)} faults", file=sys.stderr)
    if outcome.survived and not outcome.breaches and not outcome.unexplained:
        shutil.rmtree(folder)
        return outcome
    report = [f"{name!r}, seed {seed}: {'survived' if outcome.survived else 'NOT SURVIVED'}, {folder}"]
    report += [f"  {breach.kind}: {breach.text}" for breach in outcome.breaches[:10]]
    report += [f"  unexplained: {text}" for text in outcome.unexplained]
    print("\n".join(report), flush=True)
    return outcome


def plan(kinds: list[str], count: int, first: int) -> list[tuple[str, int]]:
    """Deal the runs out over the kinds."""
    return [(kinds[number % len(kinds)], first + number // len(kinds)) for number in range(count)]


def run_all(runs: list[tuple[str, int]], place: Place, jobs: int) -> dict[str, list[Outcome]]:
    """Run them, some at a time."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name, _ in runs}

    def one(run: tuple[str, int]) -> None:
        try:
            outcomes[run[0]].append(run_one(*run, place))
        except Exception:
            print(f"{run}: the suite itself failed", flush=True)
            traceback.print_exc()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, runs))
    return outcomes


def row(outcomes: list[Outcome]) -> list[int]:
    """Return the numbers of a kind: runs that had it, not breaches."""
    kinds = [{breach.kind for breach in outcome.breaches} for outcome in outcomes]
    return [
        len(outcomes),
        sum(bool(outcome.injected) for outcome in outcomes),
        sum(outcome.survived for outcome in outcomes),
        *(sum(kind in found for found in kinds) for kind in checker.KINDS),
        sum(bool(outcome.unexplained) for outcome in outcomes),
    ]


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return the table, in Markdown."""
    rows = {name: row(found) for name, found in outcomes.items()}
    rows["**all**"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = [f"| kind | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    lines += [f"| {name} | {' | '.join(map(str, numbers))} |" for name, numbers in rows.items()]
    return "\n".join(lines)


@contextlib.contextmanager
def place_of(store: str | None, root: Path) -> Iterator[Place]:
    """Start what a store needs; it ends with the block."""
    if store is None:
        yield Place(root, fault_kinds.available(), None)
        fault_kinds.clean_up()
        return
    with fault_store.azurite(root) as endpoint:
        yield Place(root, store_kinds.KINDS, endpoint)


def main() -> int:
    """Run what the command line asks for."""
    every = {**fault_kinds.KINDS, **store_kinds.KINDS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=len(fault_kinds.KINDS), help="runs, dealt out over the kinds")
    parser.add_argument(
        "--store", choices=["azure"], help="output and run directory are in Azurite, started here"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first run of each kind")
    parser.add_argument("--kind", action="append", choices=sorted(every), help="only this; repeatable")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    parser.add_argument("--keep", type=Path, help="folder of the runs; what went wrong stays there")
    given = parser.parse_args()
    root = given.keep or Path(tempfile.mkdtemp(prefix="parallelrun-faults-"))
    root.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with place_of(given.store, root) as place:
        outcomes = run_all(plan(given.kind or list(place.kinds), given.n, given.seed), place, given.jobs)
    missing = sorted((store_kinds if given.store else fault_kinds).KINDS.keys() - outcomes.keys())
    print(table(outcomes))
    settings = FAST_OBJECTS if given.store else FAST
    cores, seconds = len(os.sched_getaffinity(0)), time.monotonic() - started
    print(f"\nN={given.n}, seeds from {given.seed}, {given.jobs} at a time on {cores} cores, {seconds:.0f} s")
    print(f"Python {platform.python_version()}, Linux {platform.release()}; settings: {settings}")
    if missing:
        print(f"not run: {', '.join(missing)}")
    bad = any(
        not each.survived or each.breaches or each.unexplained
        for found in outcomes.values()
        for each in found
    )
    if not bad:
        shutil.rmtree(root, ignore_errors=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
