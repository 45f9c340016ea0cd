# SPDX-License-Identifier: Apache-2.0
"""The kinds of faults of runs in an object store; as ``fault_kinds.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fault_kinds
from fault_case import FAST_OBJECTS
from fault_kinds import anywhere, fault, node_step, once_or_always, poisonous, with_failures

if TYPE_CHECKING:
    import random

    from fault_case import Scenario

KINDS: dict[str, fault_kinds.Kind] = {}

# Where a commit, a claim, a seal or a result is asked of the store; before it is, and when it has been done.
WHEN = ["before", "after"]
# A result that is put together of parts, one that is written at once, and what else is there of a verdict.
ROWS, SMALL = r"/rows\.txt$", r"/(failed_items\.jsonl|job_result\.json)$"


def kind(name: str) -> Any:
    """Register a kind under the name that the table shows."""

    def register(function: fault_kinds.Kind) -> fault_kinds.Kind:
        KINDS[name] = function
        return function

    return register


def base(rng: random.Random, **values: Any) -> Scenario:
    """A run of varied shape in a store; commits are small there, so that there are several."""
    scenario = fault_kinds.base(rng, intervals=dict(FAST_OBJECTS), pause_s=0.01)
    if rng.random() < 0.2:  # the product's own: everything hangs on one late commit
        del scenario.intervals["engine.committed_objects.SHORTEST_INTERVAL_S"]
        del scenario.intervals["engine.committed_objects.LONGEST_INTERVAL_S"]
    for name, value in values.items():
        setattr(scenario, name, scenario.config | value if name == "config" else value)
    return scenario


def on_objects(scenario: Scenario) -> Scenario:
    """Have a scenario of a file system run in a store."""
    scenario.intervals = dict(FAST_OBJECTS)
    return scenario


@kind("worker killed")
def worker_killed(rng: random.Random) -> Scenario:
    return on_objects(fault_kinds.worker_killed(rng))


@kind("os._exit")
def exits(rng: random.Random) -> Scenario:
    return once_or_always(base(rng), rng, "exit")


def object_anywhere(rng: random.Random, do: str) -> dict[str, Any]:
    """A fault at something that a node asks the store, in any phase or at a kind of object on purpose."""
    paths = {"/attempts": 3, "/claims": 8, "/journal": 4, "/segments": 3, "/ends": 3, "/pages": 1, "": 40}
    path = rng.choice(sorted(paths))
    call = rng.choice(["object write", "object write", "*"])
    return fault(call, do, path, at=rng.randint(1, paths[path]), when=rng.choice(WHEN))


@kind("node killed")
def node_killed(rng: random.Random) -> Scenario:
    tries = [
        [rng.choice([anywhere, object_anywhere, object_anywhere])(rng, "kill")]
        for _ in range(rng.randint(1, 2))
    ]
    return node_step(base(rng), rng, *tries)


@kind("node killed in a commit")
def killed_in_commit(rng: random.Random) -> Scenario:
    # Rows without a line, a line that the node does not know of, or neither.
    path, when = rng.choice([("/segments/", "after"), ("/journal/", "before"), ("/journal/", "after")])
    do = rng.choice(["kill", "kill all"])
    return node_step(base(rng), rng, [fault("object write", do, path, at=rng.randint(1, 2), when=when)])


@kind("all killed at once")
def all_killed(rng: random.Random) -> Scenario:
    scenario = node_step(base(rng), rng, [object_anywhere(rng, "kill all")])
    if rng.random() < 0.5:
        scenario.worker.append(fault("run", "leave children", "00000"))
    return scenario


@kind("node asked to stop")
def asked_to_stop(rng: random.Random) -> Scenario:
    point = fault("object write", "ask to stop", "/journal|/segments|/claims", at=rng.randint(1, 6))
    return node_step(base(rng), rng, [point])


@kind("node frozen, then goes on")
def frozen(rng: random.Random) -> Scenario:
    return node_step(base(rng, thaw_early=rng.random() < 0.5), rng, [object_anywhere(rng, "stop")])


@kind("zombie journals after the seal")
def zombie(rng: random.Random) -> Scenario:
    path = rng.choice(["/journal/", "/segments/"])
    point = fault("object write", "stop", path, at=rng.randint(1, 2), when=rng.choice(WHEN))
    return node_step(base(rng, nodes=1), rng, [point])


@kind("bisection")
def bisection(rng: random.Random) -> Scenario:
    scenario = poisonous(base(rng), rng, rng.choice(["raise", "raise", "exit", "segfault"]))
    if rng.random() < 0.6:
        node_step(scenario, rng, [object_anywhere(rng, rng.choice(["kill", "kill all", "stop"]))])
    return scenario


@kind("redrive")
def redriven(rng: random.Random) -> Scenario:
    scenario = on_objects(fault_kinds.redriven(rng))
    scenario.steps.clear()
    if rng.random() < 0.7:
        do = rng.choice(["kill", "kill all", "stop", "ask to stop"])
        node_step(scenario, rng, [], [object_anywhere(rng, do)])
    if rng.random() < 0.5:
        scenario.steps["reduce"] = [[], [_reduce_fault(rng, rng.choice(["kill", "stop"]))]]
    if rng.random() < 0.5:
        scenario.steps["redrive"] = [
            [
                fault(
                    "object write",
                    "kill",
                    "/redrives|/published",
                    at=rng.randint(1, 2),
                    when=rng.choice(WHEN),
                )
            ]
        ]
    return scenario


def _reduce_fault(rng: random.Random, do: str) -> dict[str, Any]:
    call, path, at = rng.choice(
        [
            ("object put", ROWS, 3),
            ("object complete", ROWS, 1),
            ("object write", SMALL, 2),
            ("object stat", SMALL, 3),
            ("object write", "/rounds/", 1),
        ]
    )
    return fault(call, do, path, at=rng.randint(1, at), when=rng.choice(WHEN))


@kind("killed in the seal")
def killed_in_seal(rng: random.Random) -> Scenario:
    point = fault("*", "kill", "/rounds", at=rng.randint(1, 4), when=rng.choice(WHEN))
    return with_failures(base(rng, steps={"reduce": [[point]]}))


@kind("killed in the assembly")
def killed_in_assembly(rng: random.Random) -> Scenario:
    point = fault("object put", "kill", ROWS, at=rng.randint(1, 3), when=rng.choice(WHEN))
    return with_failures(base(rng, steps={"reduce": [[point]]}))


@kind("killed in the publication")
def killed_in_publication(rng: random.Random) -> Scenario:
    tries = [[_reduce_fault(rng, "kill")] for _ in range(rng.randint(1, 3))]
    return with_failures(base(rng, steps={"reduce": tries}))


@kind("two reduces at once")
def two_reduces(rng: random.Random) -> Scenario:
    do = rng.choice(["kill", "stop", "stop"])
    steps = {"reduce": [[_reduce_fault(rng, do)]]} if rng.random() < 0.7 else {}
    return with_failures(base(rng, twins=True, steps=steps))


@kind("split killed")
def split_killed(rng: random.Random) -> Scenario:
    paths = ["plan.json", "code.zip", "mini_batches", "probe", "owner.json", ""]
    point = fault("object write", "kill", rng.choice(paths), when=rng.choice(WHEN))
    return base(rng, steps={"split": [[point]]})


# The network.


@kind("requests answered by 503")
def busy(rng: random.Random) -> Scenario:
    return with_failures(base(rng, network={"busy": rng.choice([0.05, 0.15])}))


@kind("connections cut")
def cut(rng: random.Random) -> Scenario:
    return with_failures(base(rng, network={"cut": rng.choice([0.05, 0.15])}))


@kind("replies lost")
def lost(rng: random.Random) -> Scenario:
    return with_failures(base(rng, network={"reply lost": rng.choice([0.05, 0.15])}))


@kind("store is away for a while")
def away(rng: random.Random) -> Scenario:
    return base(rng, outage=(rng.randint(1, 120), rng.choice([10, 60, 200])))


@kind("several at once")
def several(rng: random.Random) -> Scenario:
    scenario = base(rng, nodes=2, thaw_early=rng.random() < 0.5)
    scenario.network = {"busy": 0.02, "cut": 0.02, "reply lost": 0.02}
    scenario.steps = {
        "node 0": [[object_anywhere(rng, rng.choice(["kill", "kill all", "stop"]))]],
        "node 1": [[object_anywhere(rng, rng.choice(["kill", "stop"]))]],
        "reduce": [[_reduce_fault(rng, rng.choice(["kill", "stop"]))]],
    }
    scenario.worker = [
        fault("run", rng.choice(["exit", "leave children", "flood"]), f"{rng.randrange(scenario.items):05d}")
    ]
    return scenario
