# SPDX-License-Identifier: Apache-2.0
"""The kinds of faults: each makes a scenario from a random generator, so that a seed reproduces it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_case import FAST, GIVEN, Scenario

# Of worker/page.py, in this order: 0 idle, 1 init, 2 load, 3 run, 4 write, 5 shutdown.
LOAD, RUN, WRITE = "2", "3", "4"
# What a node touches in the run directory, by a part of the path, and how many calls there are at least.
NODE_PATHS = {
    "/attempts": 12,
    "/claims": 40,
    "/control": 9,
    "/journal": 10,
    "/segments": 9,
    "/pages": 5,
    "/ends": 8,
    "plan.json": 1,
    "code.zip": 1,
}
# Rows; failed items and the result are written by a file object, whose flush no fault can see.
RESULT_BEING_WRITTEN = r"/\.parallelrun/\.tmp-[0-9a-f]{16}$"
RESULTS = ["rows.txt", "failed_items.jsonl", "job_result.json"]
WHEN = ["before", "half", "after"]

Kind = Callable[[random.Random], Scenario]
KINDS: dict[str, Kind] = {}
# Kinds that need what not every machine allows, and how to find out.
NEEDS: dict[str, Callable[[], bool]] = {}


def kind(name: str, needs: Callable[[], bool] | None = None) -> Callable[[Kind], Kind]:
    """Register a kind under the name that the table shows."""

    def register(function: Kind) -> Kind:
        KINDS[name] = function
        if needs is not None:
            NEEDS[name] = needs
        return function

    return register


def fault(call: str, do: str, path: str = "", **values: Any) -> dict[str, Any]:
    """A fault that strikes once in the whole run, unless told otherwise."""
    name = re.sub(r"[^\w.-]", "_", f"{call}-{path}-{do}-{values.get('when', '')}-{values.get('at', 1)}")
    return {"id": name, "call": call, "path": path, "do": do, "once": True, **values}


def base(rng: random.Random, **values: Any) -> Scenario:
    """A run of varied shape."""
    intervals = dict(FAST)
    if rng.random() < 0.2:
        del intervals["engine.committer.INTERVAL_S"]  # the product's own: everything hangs on one late commit
    scenario = Scenario(
        config={"start_method": "fork"} if rng.random() < 0.3 else {},
        items=rng.randint(16, 40),
        items_each=rng.choice([1, 1, 2, 3]),
        nodes=rng.choice([1, 1, 2]),
        processes=rng.choice([1, 2]),
        apart=rng.random() < 0.3,
        intervals=intervals,
    )
    for name, value in values.items():
        setattr(scenario, name, scenario.config | value if name == "config" else value)
    return scenario


def node_step(scenario: Scenario, rng: random.Random, *tries: list[dict[str, Any]]) -> Scenario:
    """Give the faults to one of the nodes."""
    scenario.steps[f"node {rng.randrange(scenario.nodes)}"] = list(tries)
    return scenario


def with_failures(scenario: Scenario) -> Scenario:
    """Have one mini-batch fail for good, so that there is a list of failed items to publish."""
    scenario.may_fail = {1}
    scenario.worker.append(fault("run", "raise", f"{scenario.items_each:05d}", every=1, once=False, id=GIVEN))
    return scenario


def once_or_always(scenario: Scenario, rng: random.Random, do: str, **config: Any) -> Scenario:
    """Something strikes in run(): once, so that the next try succeeds; or in every try of one mini-batch."""
    victim = rng.randrange(scenario.items)
    always = rng.random() < 0.3
    scenario.config.update(config)
    if always:
        scenario.may_fail = {victim // scenario.items_each}
        scenario.config["run_max_try"] = rng.choice([1, 2])
    scenario.worker.append(fault("run", do, f"{victim:05d}", every=1, once=not always))
    return scenario


# Worker processes.


@kind("worker killed")
def worker_killed(rng: random.Random) -> Scenario:
    point = rng.choice(
        [
            fault("init", "kill"),
            fault("page", "kill", LOAD, at=rng.randint(1, 6)),
            fault("page", "kill", RUN, at=rng.randint(1, 6)),
            fault("page", "kill", WRITE, at=rng.randint(1, 6)),
            fault("before page", "kill", LOAD, at=rng.randint(2, 6)),
            fault("before page", "kill", "0", at=rng.randint(1, 2)),
            fault("pwrite", "kill", "/segments", at=rng.randint(1, 6), when=rng.choice(WHEN)),
            fault("report", "kill", rng.choice(["result", "streak"]), at=rng.randint(1, 3)),
            fault("shutdown", "kill"),
        ]
    )
    return base(rng, worker=[point])


@kind("segmentation fault")
def segfault(rng: random.Random) -> Scenario:
    return once_or_always(base(rng), rng, "segfault")


@kind("os._exit")
def exits(rng: random.Random) -> Scenario:
    return once_or_always(base(rng), rng, "exit")


@kind("memory: a limit")
def memory_limit(rng: random.Random) -> Scenario:
    return once_or_always(base(rng), rng, "eat to the limit")


def _memory_group() -> Path | None:
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root, "parallelrun-faults")
        try:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(64 << 20))
        except OSError:
            continue
        return group
    return None


@kind("memory: the kernel", needs=lambda: _memory_group() is not None)
def memory_kernel(rng: random.Random) -> Scenario:
    return once_or_always(base(rng, group=str(_memory_group())), rng, "eat to the kernel's limit")


@kind("hang with the GIL")
def hang(rng: random.Random) -> Scenario:
    return once_or_always(base(rng), rng, "hang", run_invocation_timeout=1)


@kind("stdout closed, full, flooded")
def stdout(rng: random.Random) -> Scenario:
    scenario = base(rng)
    do = rng.choice(["close stdout", "fill stdout", "flood"])
    scenario.worker.append(fault("run", do, f"{rng.randrange(scenario.items):05d}"))
    return scenario


@kind("children outlive the worker")
def outliving(rng: random.Random) -> Scenario:
    return once_or_always(base(rng), rng, "leave children")


def poisonous(scenario: Scenario, rng: random.Random, do: str) -> Scenario:
    """Have a few items fail whoever runs them, in mini-batches that are bisected."""
    scenario.items_each = rng.randint(3, 9)
    scenario.config |= {"bisect_failures": True, "run_max_try": rng.choice([1, 2])}
    scenario.may_fail_items = set(rng.sample(range(scenario.items), rng.randint(1, 3)))
    scenario.worker += [
        fault("run", do, f"{victim:05d}", every=1, once=False, id=f"poison-{victim}")
        for victim in scenario.may_fail_items
    ]
    return scenario


# Nodes and guardians.


def anywhere(rng: random.Random, do: str) -> dict[str, Any]:
    """A fault at some call of a node: in any phase, or at a kind of object on purpose."""
    path = rng.choice(["", "", *NODE_PATHS])
    return fault("*", do, path, at=rng.randint(1, NODE_PATHS.get(path, 90)), when=rng.choice(WHEN))


@kind("node killed")
def node_killed(rng: random.Random) -> Scenario:
    tries = [[anywhere(rng, "kill")] for _ in range(rng.randint(1, 2))]
    return node_step(base(rng), rng, *tries)


@kind("guardian killed")
def guardian_killed(rng: random.Random) -> Scenario:
    # Its node dies later, as well or not, with children of a worker about.
    faults = [fault("*", "kill guardian", "/journal", at=rng.randint(3, 8))]
    if rng.random() < 0.6:
        faults.append(fault("*", "kill", "/journal", at=rng.randint(9, 14)))
    scenario = node_step(base(rng), rng, faults)
    scenario.worker.append(fault("run", "leave children", f"{rng.randrange(scenario.items):05d}"))
    return scenario


@kind("fork server killed")
def fork_server_killed(rng: random.Random) -> Scenario:
    point = fault(
        "*", "kill fork server", rng.choice(["/journal", "/claims", "/pages"]), at=rng.randint(1, 6)
    )
    scenario = node_step(base(rng, config={"start_method": "fork"}), rng, [point])
    scenario.worker.append(
        fault("run", rng.choice(["exit", "segfault"]), f"{rng.randrange(scenario.items):05d}")
    )
    return scenario


@kind("all killed at once")
def all_killed(rng: random.Random) -> Scenario:
    scenario = node_step(base(rng), rng, [anywhere(rng, "kill all")])
    if rng.random() < 0.5:
        scenario.worker.append(fault("run", "leave children", "00000"))
    return scenario


@kind("node asked to stop")
def asked_to_stop(rng: random.Random) -> Scenario:
    return node_step(base(rng), rng, [fault("*", "ask to stop", "/journal", at=rng.randint(2, 10))])


@kind("mini-batch kills its node")
def poison(rng: random.Random) -> Scenario:
    scenario = base(rng, nodes=1, processes=rng.choice([1, 2, 3]))
    victim = rng.randrange(scenario.items)
    scenario.may_fail = {victim // scenario.items_each}
    scenario.worker.append(fault("run", "kill node", f"{victim:05d}", every=1, once=False))
    return scenario


@kind("node frozen, then goes on")
def frozen(rng: random.Random) -> Scenario:
    return node_step(base(rng, thaw_early=rng.random() < 0.5), rng, [anywhere(rng, "stop")])


@kind("zombie journals after the seal")
def zombie(rng: random.Random) -> Scenario:
    call = rng.choice(["pwrite", "fdatasync"])
    return node_step(base(rng, nodes=1), rng, [fault(call, "stop", "/journal", at=rng.randint(1, 2))])


@kind("bisection")
def bisection(rng: random.Random) -> Scenario:
    scenario = poisonous(base(rng), rng, rng.choice(["raise", "raise", "exit", "segfault"]))
    if rng.random() < 0.3:  # beside an item that is left out
        left_out = rng.randrange(scenario.items)
        scenario.may_fail_items.add(left_out)
        scenario.worker.append(fault("run", "leave out", f"{left_out:05d}", every=1, once=False))
    if rng.random() < 0.6:
        node_step(scenario, rng, [anywhere(rng, rng.choice(["kill", "kill all", "stop", "EIO"]))])
    return scenario


@kind("short returns")
def short_returns(rng: random.Random) -> Scenario:
    scenario = base(rng, items_each=3, config={"retry_short_returns": rng.random() < 0.5})
    victims = rng.sample(range(scenario.items), 2)
    always = rng.random() < 0.5
    scenario.may_fail_items = set(victims)
    scenario.worker += [
        fault("run", "leave out", f"{victims[0]:05d}", every=1, once=not always),
        fault("run", rng.choice(["raise", "exit"]), f"{victims[1]:05d}", at=2),
    ]
    return node_step(scenario, rng, [anywhere(rng, "kill")])


@kind("redrive")
def redriven(rng: random.Random) -> Scenario:
    # Each strikes once, in a mini-batch of its own: in the first run, whose tries are used up then, so that
    # the redrive makes it good.
    scenario = base(rng, redrive=True, items_each=rng.choice([1, 2, 5]))
    scenario.config |= {"run_max_try": 1, "bisect_failures": rng.random() < 0.3}
    victims = rng.sample(range(0, scenario.items, scenario.items_each), 4)
    for do, victim in zip(["raise", "raise", "leave out", "exit"], victims, strict=True):
        scenario.worker.append(fault("run", do, f"{victim:05d}", every=1))
    # The first try of a step is most often of the first run, the second one of the redrive.
    if rng.random() < 0.7:
        do = rng.choice(["kill", "kill all", "stop", "EIO", "ask to stop"])
        node_step(scenario, rng, [], [anywhere(rng, do)])
    if rng.random() < 0.5:
        scenario.steps["reduce"] = [[], [_reduce_fault(rng, rng.choice(["kill", "EIO", "stop"]))]]
    if rng.random() < 0.5:
        path = rng.choice(["/redrives", "/published", "owner.json", ""])
        scenario.steps["redrive"] = [[fault("*", rng.choice(["kill", "EIO"]), path, at=rng.randint(1, 6))]]
    return scenario


# Reduce and split.


def _reduce_fault(rng: random.Random, do: str) -> dict[str, Any]:
    call, path, at = rng.choice(
        [
            *[(call, path, 1) for call in ("link", "lstat") for path in RESULTS],
            *[(call, RESULT_BEING_WRITTEN, 3) for call in ("open", "fsync", "stat", "unlink")],
            ("unlink", "job_result.json", 1),
            ("fsync", "/output$", 3),
            ("*", "/published", 20),
        ]
    )
    return fault(call, do, path, at=rng.randint(1, at), when=rng.choice(WHEN))


@kind("killed in the seal")
def killed_in_seal(rng: random.Random) -> Scenario:
    point = fault("*", "kill", "/rounds", at=rng.randint(1, 8), when=rng.choice(WHEN))
    return with_failures(base(rng, steps={"reduce": [[point]]}))


@kind("killed in the assembly")
def killed_in_assembly(rng: random.Random) -> Scenario:
    point = fault("write", "kill", RESULT_BEING_WRITTEN, at=1, when=rng.choice(WHEN))
    return with_failures(base(rng, apart=True, steps={"reduce": [[point]]}))


@kind("killed in the publication")
def killed_in_publication(rng: random.Random) -> Scenario:
    tries = [[_reduce_fault(rng, "kill")] for _ in range(rng.randint(1, 3))]
    return with_failures(base(rng, steps={"reduce": tries}))


@kind("two reduces at once")
def two_reduces(rng: random.Random) -> Scenario:
    do = rng.choice(["kill", "stop", "stop"])
    steps = {"reduce": [[_reduce_fault(rng, do)]]} if rng.random() < 0.7 else {}
    scenario = with_failures(base(rng, twins=True, steps=steps))
    scenario.worker.append(fault("run", "exit", "00000"))
    return scenario


@kind("split killed")
def split_killed(rng: random.Random) -> Scenario:
    paths = ["plan.json", "code.zip", "mini_batches", "probe", "owner.json", ""]
    point = fault("*", "kill", rng.choice(paths), at=rng.randint(1, 4), when=rng.choice(WHEN))
    return base(rng, steps={"split": [[point]]})


# The store.


def broken(rng: random.Random, calls: dict[str, int], path: str) -> dict[str, Any]:
    """ENOSPC or EIO at one of the first so many calls of a kind, once or a few times in a row."""
    call = rng.choice(sorted(calls))
    return fault(
        call,
        rng.choice(["ENOSPC", "EIO"]),
        path,
        at=rng.randint(1, calls[call]),
        every=1,
        limit=rng.choice([1, 2, 10]),
        once=False,
        when=rng.choice(["before", "half"]),
    )


@kind("ENOSPC, EIO: segment")
def segment_broken(rng: random.Random) -> Scenario:
    if rng.random() < 0.5:
        return node_step(base(rng), rng, [broken(rng, {"fdatasync": 3, "open": 3}, "/segments")])
    return base(rng, worker=[{**broken(rng, {"pwrite": 5}, "/segments"), "limit": rng.choice([1, 3])}])


@kind("ENOSPC, EIO: journal")
def journal_broken(rng: random.Random) -> Scenario:
    calls = {"write": 1, "open": 2, "pwrite": 2, "fdatasync": 2}
    return node_step(base(rng), rng, [broken(rng, calls, "/journal")])


@kind("ENOSPC, EIO: plan")
def plan_broken(rng: random.Random) -> Scenario:
    paths = ["plan.json", "code.zip", "mini_batches", "probe", "owner.json"]
    return base(rng, steps={"split": [[broken(rng, {"*": 5}, rng.choice(paths))]]})


@kind("ENOSPC, EIO: output")
def output_broken(rng: random.Random) -> Scenario:
    calls = {"write": 5, "fsync": 5, "link": 3, "replace": 3, "open": 5, "unlink": 3}
    point = broken(rng, calls, "/output/")
    return with_failures(base(rng, apart=True, steps={"reduce": [[point]]}))


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "faults", folder], check=False, stderr=subprocess.DEVNULL
        )
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
    return done.returncode == 0


@kind("a disk that is really full", needs=_can_mount)
def full_disk(rng: random.Random) -> Scenario:
    return with_failures(base(rng, disk_bytes=4096 * rng.randint(4, 60)))


def sickly(rng: random.Random, point: dict[str, Any], **values: Any) -> Scenario:
    """Give a fault to every step, in its first tries."""
    scenario = base(rng, **values)
    for step in ("split", *(f"node {n}" for n in range(scenario.nodes)), "reduce"):
        scenario.steps[step] = [[{**point, "id": f"{step}-{n}-{point['id']}"}] for n in range(2)]
    return scenario


@kind("store fails every k-th call")
def every_kth(rng: random.Random) -> Scenario:
    k = rng.randint(15, 60)
    when = rng.choice(["before", "after"])
    return sickly(rng, fault("*", "EIO", "/.parallelrun/", at=k, every=k, once=False, when=when))


@kind("store is slow")
def slow(rng: random.Random) -> Scenario:
    return sickly(rng, fault("*", "sleep", "/.parallelrun/", every=1, once=False), items=16)


@kind("reply of a create is lost")
def lost_reply(rng: random.Random) -> Scenario:
    path = rng.choice(["/attempts", "/claims", "/claims", "/rounds", "probe", "owner.json", "rows.txt"])
    k = rng.randint(1, 2) if path == "/claims" else 1
    error = rng.choice(["EEXIST", "EIO", "ETIMEDOUT"])
    return sickly(rng, fault("link", error, path, at=k, every=k, once=False, when="after"))


@kind('store lies "exists"')
def lies(rng: random.Random) -> Scenario:
    path = rng.choice(["/attempts", "/claims", "/rounds", "probe", "owner.json", "rows.txt", "job_result"])
    return sickly(rng, fault("link", "EEXIST", path, once=False))


# What lies on the disk.


@kind("torn last journal line")
def torn(rng: random.Random) -> Scenario:
    if rng.random() < 0.5:
        return base(rng, damage="tear")
    return node_step(base(rng), rng, [fault("pwrite", "kill", "/journal", at=rng.randint(1, 2), when="half")])


@kind("flipped or missing bytes")
def flipped(rng: random.Random) -> Scenario:
    return base(rng, damage=rng.choice(["flip", "flip", "cut"]))


@kind("input vanishes or changes")
def input_changes(rng: random.Random) -> Scenario:
    scenario = base(rng, damage=rng.choice(["vanish", "change"]))
    scenario.may_fail = {number // scenario.items_each for number in range(2)}
    return scenario


# Several at once.


@kind("several at once")
def several(rng: random.Random) -> Scenario:
    scenario = base(rng, nodes=2, thaw_early=rng.random() < 0.5)
    scenario.steps = {
        "node 0": [[anywhere(rng, rng.choice(["kill", "kill all", "stop", "EIO"]))], [anywhere(rng, "EIO")]],
        "node 1": [[anywhere(rng, rng.choice(["kill", "stop", "ENOSPC"]))]],
        "reduce": [[_reduce_fault(rng, rng.choice(["kill", "EIO", "stop"]))]],
    }
    scenario.worker = [
        fault("run", rng.choice(["exit", "leave children", "flood"]), f"{rng.randrange(scenario.items):05d}"),
        fault("pwrite", rng.choice(["kill", "EIO"]), "/segments", at=rng.randint(1, 5), when="half"),
    ]
    return scenario


def available() -> dict[str, Kind]:
    """Return the kinds that this machine allows."""
    return {name: make for name, make in KINDS.items() if name not in NEEDS or NEEDS[name]()}


def generator(name: str, seed: int) -> random.Random:
    """Return the random numbers of one run."""
    return random.Random(f"{name}/{seed}")


def clean_up() -> None:
    """Remove what the kinds made outside the runs' folders."""
    for root in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        with contextlib.suppress(OSError):  # there is none; or another suite is using it
            os.rmdir(Path(root, "parallelrun-faults"))
