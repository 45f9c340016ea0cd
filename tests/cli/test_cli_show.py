# SPDX-License-Identifier: Apache-2.0
"""``parallelrun show``: what a person sees of runs that ended well, badly, or not yet."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from workplace import ECHO, Workplace

from airflow_parallelrun.engine.journal import parse

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

BROKEN = """
import os
def run(mini_batch):
    if mini_batch[0].endswith(("1.txt", "3.txt")):
        raise ValueError("broken picture " + mini_batch[0][-5])
    return [os.path.basename(path) for path in mini_batch]
"""
# Waits at the fourth file for as long as a file "hold" is there.
HELD = """
import os, time
def run(mini_batch):
    time.sleep(0.05)  # long enough that each result is reported at once
    while mini_batch[0].endswith("3.txt") and os.path.exists(HOLD):
        time.sleep(0.02)
    return [os.path.basename(path) for path in mini_batch]
"""


def shown(work: Workplace, where: str = "output", at_rest: bool = True) -> tuple[str, dict[str, Any]]:
    """What the command says, in words and as JSON; of a run that is at rest, that it has changed nothing."""
    before = everything(work.folder)
    text, document = work.command("show", where), work.command("show", where, "--json")
    assert (text.status, text.err, document.status, document.err) == (0, "", 0, "")
    assert not at_rest or everything(work.folder) == before
    return text.out, json.loads(document.out)


def everything(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def table(text: str) -> dict[str, str]:
    """The lines of the first block, by name."""
    lines = text.split("\n\n")[0].splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def block(text: str, title: str) -> str:
    """The lines below a title."""
    return next((part for part in text.split("\n\n") if part.startswith(f"{title}:\n")), "")


def run_dir(work: Workplace) -> Path:
    (plan,) = work.folder.glob("output/.parallelrun/*/plan.json")
    return plan.parent


def give_to_airflow(work: Workplace) -> None:
    plan = run_dir(work) / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "owner": "nightly/manual__1/daily.predict"}))


def eventually(probe: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not probe():
        assert process.poll() is None
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def held(work: Workplace) -> Any:
    """A run of five files that waits in its fourth; three are committed."""
    (work.folder / "hold").touch()
    script = work.script(HELD.replace("HOLD", repr(str(work.folder / "hold"))))
    fixed = ("--input", work.files(5), "--output", "output", "--mini-batch-size", "1")
    process = work.start("run", script, *fixed, "--process-count-per-node", "1")
    eventually(lambda: committed(work) == 3, process)
    return process


def committed(work: Workplace) -> int:
    """Return how many mini-batches the journals have."""
    journals = work.folder.glob("output/.parallelrun/*/journal/*.jsonl")
    lines = (line for path in journals for line in path.read_bytes().splitlines(keepends=True)[1:])
    return sum(len(list(parse(line).lines())) for line in lines)


def test_a_run_that_has_succeeded(work: Workplace) -> None:
    ended = work.run(work.script(ECHO))
    text, document = shown(work)
    lines = table(text)
    assert lines["job"] == "succeeded"
    expected = dict(list(table(ended.out).items())[1:])
    assert {name: lines[name] for name in expected} == expected
    assert lines["tolerated"] == "error_threshold 0"
    assert re.match(r"[\d.]+ s \(split [\d.]+ s, until the first process was ready [\d.]+ s, run\(\) in all",
                    lines["took"])  # fmt: skip
    assert re.search(r"^  0-1 +finished +4 mini-batches done, last commit \S+Z; ", text, re.MULTILINE)
    for title in ("most frequent errors", "first failed items", "what to do"):
        assert not block(text, title)
    assert document["result"] == json.loads((work.folder / "output" / "job_result.json").read_text())
    assert document["state"] == "succeeded"
    assert document["published"]
    assert (document["failed_items"], document["left"], document["next"]) == ([], 0, "")
    assert document["owner"].startswith("cli/")
    (node,) = document["nodes"]
    assert (node["node"], node["state"], node["mini_batches_done"]) == ("0-1", "finished", 4)
    assert "finished: 4 mini-batches done" in Path(node["log"]).read_text()


def test_a_run_that_has_succeeded_with_errors(work: Workplace) -> None:
    assert work.run(work.script(BROKEN), "--error-threshold", "2", "--run-max-try", "2").status == 0
    text, document = shown(work)
    assert table(text)["job"] == "succeeded with errors"
    errors = block(text, "most frequent errors")
    # The digit does not make it another error.
    assert "  2 mini-batches, 2 items: ValueError: broken picture 1 (score.py, line 5, in run)\n" in errors
    assert re.search(r"\n +first in mini-batch 1: \S+/001\.txt\n", errors)
    assert 'raise ValueError("broken picture " + mini_batch[0][-5])\n' in errors
    assert re.search(r"\n +log: \S+/logs/user/error/0-1/process000\.txt", errors)
    items = block(text, "first failed items").splitlines()[1:]
    assert [item.rpartition("/")[2] for item in items] == [
        "001.txt: ValueError: broken picture 1 (mini-batch 1, 2 tries, node 0-1 process000)",
        "003.txt: ValueError: broken picture 3 (mini-batch 3, 2 tries, node 0-1 process000)",
    ]
    (told,) = block(text, "what to do").splitlines()[1:]
    assert told.startswith(
        "  2 mini-batches failed or came back short, which was tolerated. To run them again"
    )
    assert told.endswith(f": parallelrun redrive {run_dir(work)}")
    lines = (work.folder / "output" / "failed_items.jsonl").read_text().splitlines()
    assert document["failed_items"] == [json.loads(line) for line in lines]


def test_a_run_that_failed_more_than_was_tolerated(work: Workplace) -> None:
    assert work.run(work.script(BROKEN), "--error-threshold", "1", "--run-max-try", "1").status == 1
    text, document = shown(work)
    lines = table(text)
    assert lines["job"] == document["state"] == "failed"
    assert lines["reason"].startswith("2 items failed, error_threshold is 1. Most frequent error, in 2 mini")
    assert "output file" not in lines
    advice = block(text, "what to do").splitlines()[1]
    assert advice.startswith("  If the cause lies outside of the script and its options")
    # What it says is what a shell understands.
    command = shlex.split(document["next"].rpartition(": ")[2])
    assert command == ["parallelrun", "resume", str(run_dir(work))]
    assert work.command(*command[1:]).status == 1


def test_what_no_other_round_can_change(work: Workplace) -> None:
    assert work.run(work.script("def run(mini_batch):\n    return []"), "--error-threshold", "-1").status == 1
    text, document = shown(work)
    assert "there is no row to append: run() returned an empty list" in table(text)["reason"]
    assert document["next"].startswith("Every mini-batch has been processed: only a new run can change this")
    assert "\n  4 mini-batches, 4 items: ShortReturn: run() returned 0 elements for 1 items\n" in text
    assert "  1 of " in block(text, "first failed items")


def test_a_run_whose_init_failed(work: Workplace) -> None:
    script = work.script("def init():\n    raise OSError('no weights')\n" + ECHO)
    assert work.run(script).status == 1
    text, document = shown(work)
    assert table(text)["job"] == "failed"
    assert "4 mini-batches were not processed" in table(text)["reason"]
    nodes = block(text, "nodes")
    assert re.search(r"\n  0-1 +failed +0 mini-batches done; \S+, process \d+, since \S+Z\n", nodes)
    assert "3 processes of node 0 in a row died in init()" in nodes
    assert 'File "score.py", line 2, in init' in nodes
    assert "OSError: no weights" in nodes
    assert document["nodes"][0]["last_commit"] is None
    assert document["left"] == 4


def test_a_run_that_is_going_on(work: Workplace, held: subprocess.Popen[str]) -> None:
    text, document = shown(work, at_rest=False)
    lines = table(text)
    assert lines["job"] == "running: no verdict yet"
    assert lines["mini-batches"] == "5 (3 succeeded, 0 short, 0 failed, 2 unprocessed)"
    assert lines["took"].endswith(" s until now")
    assert f"{held.pid}" in block(text, "nodes")
    assert document["nodes"][0]["state"] == "at work"
    assert (document["state"], document["result"]["verdict"], document["next"]) == ("running", None, "")
    (work.folder / "hold").unlink()
    held.communicate(timeout=60)
    assert held.returncode == 0
    assert table(shown(work)[0])["job"] == "succeeded"


def test_a_run_that_was_killed_and_one_that_goes_on_after_it(
    work: Workplace, held: subprocess.Popen[str]
) -> None:
    below = psutil.Process(held.pid).children(recursive=True)
    held.kill()
    held.communicate(timeout=60)
    assert psutil.wait_procs(below, timeout=20)[1] == []
    text, document = shown(work)
    assert table(text)["job"] == "stopped: no node is at work, and there is no verdict"
    assert re.search(r"^  0-1 +lost  ", block(text, "nodes"), re.MULTILINE)
    assert document["next"].startswith("2 mini-batches failed or left to do. To go on: parallelrun resume ")
    # The second start waits at the same place, and is interrupted.
    again = work.start(*shlex.split(document["next"].rpartition(": ")[2])[1:])
    eventually((run_dir(work) / "attempts" / "0-2").exists, again)
    nodes = shown(work, at_rest=False)[1]["nodes"]
    assert [(node["node"], node["state"]) for node in nodes] == [("0-1", "lost"), ("0-2", "at work")]
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    nodes = shown(work)[1]["nodes"]
    assert [(node["node"], node["state"]) for node in nodes] == [("0-1", "lost"), ("0-2", "interrupted")]
    assert "was asked to stop and has stopped" in nodes[1]["message"]
    (work.folder / "hold").unlink()
    assert work.command("resume", "output").status == 0
    assert [node["node"] for node in shown(work)[1]["nodes"]] == ["0-1", "0-2", "0-3"]


def test_a_run_that_no_node_has_begun(work: Workplace) -> None:
    work.run(work.script(ECHO))
    for name in ("attempts", "control", "claims", "rounds", "journal", "ends"):
        for path in (run_dir(work) / name).rglob("*"):
            if path.is_file():
                path.unlink()
    (work.folder / "output" / "job_result.json").unlink()
    text, document = shown(work)
    assert table(text)["job"] == "not started: no node has begun"
    assert document["next"].startswith("4 mini-batches failed or left to do")


def test_a_verdict_whose_results_are_gone_is_judged_again(work: Workplace) -> None:
    work.run(work.script(BROKEN), "--error-threshold", "2", "--run-max-try", "1")
    before = shown(work)[1]
    (work.folder / "output" / "parallel_run_step.txt").unlink()
    text, document = shown(work)
    job = table(text)["job"]
    assert job == "succeeded with errors; its results are not in the output folder"
    assert not document["published"]
    assert document["failed_items"] == before["failed_items"]
    for name in ("counts", "error_groups", "verdict", "round"):
        assert document["result"][name] == before["result"][name]


def test_a_run_without_an_output_folder(work: Workplace) -> None:
    fixed = ("--input", work.files(2), "--run-directory-root", "runs", "--output-action", "summary_only")
    assert work.command("run", work.script(ECHO), *fixed).status == 0
    text, document = shown(work, "runs")
    assert table(text)["job"] == "succeeded"
    assert document["next"] == ""


def test_an_output_folder_whose_run_directory_is_elsewhere(work: Workplace) -> None:
    assert work.run(work.script(ECHO), "--run-directory-root", "runs").status == 0
    text, document = shown(work, "output")
    assert table(text)["job"] == "succeeded"
    assert document["result"]["run_dir"].startswith(str(work.folder / "runs"))
    shutil.rmtree(work.folder / "runs")
    gone = work.command("show", "output")
    assert gone.status == 2
    assert "RUN_DIR" in gone.err


@pytest.mark.parametrize(
    ("script", "threshold", "expected"),
    [
        (BROKEN, "1", "clear daily.predict.run with downstream, also where green"),
        (BROKEN.replace("raise", "return []; raise"), "1", "clear daily.predict.split with downstream"),
        (ECHO, "0", ""),
    ],
    ids=["failed", "short", "succeeded"],
)
def test_a_run_of_airflow(work: Workplace, script: str, threshold: str, expected: str) -> None:
    work.run(work.script(script), "--error-threshold", threshold, "--run-max-try", "1")
    give_to_airflow(work)
    text, document = shown(work)
    assert table(text)["owner"] == "nightly/manual__1/daily.predict"
    assert expected in document["next"]
    assert bool(expected) == ("In Airflow, in run manual__1 of DAG nightly, clear" in document["next"])
    assert "parallelrun" not in document["next"]


def test_a_run_of_airflow_that_has_succeeded_with_errors(work: Workplace) -> None:
    work.run(work.script(BROKEN), "--error-threshold", "2", "--run-max-try", "1")
    give_to_airflow(work)
    told = 'To run them again: trigger the DAG nightly with the conf {"redrive_of": "manual__1"}'
    assert shown(work)[1]["next"].endswith(told)


def test_a_run_of_airflow_on_another_machine(work: Workplace, held: subprocess.Popen[str]) -> None:
    held.kill()
    held.communicate(timeout=60)
    give_to_airflow(work)
    attempt = run_dir(work) / "attempts" / "0-1"
    attempt.write_text(json.dumps({**json.loads(attempt.read_text()), "host": "elsewhere"}))
    text, document = shown(work)
    assert table(text)["job"] == "no verdict yet: nodes have not ended that are on other machines"
    assert document["nodes"][0]["state"] == "elsewhere"
    assert document["next"] == ""


def test_what_is_shown_is_bounded(work: Workplace) -> None:
    script = BROKEN.replace('("1.txt", "3.txt")', '".txt"').replace("picture", "x" * 5000)
    work.run(work.script(script), "--mini-batch-size", "7", "--run-max-try", "1", files=70)
    for node in range(200):
        content = (run_dir(work) / "attempts" / "0-1").read_text()
        (run_dir(work) / "attempts" / f"{node}-2").write_text(content)
    text, document = shown(work)
    assert max(map(len, text.splitlines())) < 600
    assert block(text, "nodes").endswith("\n  … and 191 more")
    assert len(block(text, "first failed items").splitlines()) == 6
    assert (len(document["nodes"]), document["nodes_left_out"]) == (100, 101)
    assert len(text) < 10_000


@pytest.mark.parametrize("given", [(), ("nowhere",), ("empty",), ("output", "--jsn")])
def test_what_is_no_run_directory(given: tuple[str, ...], work: Workplace, in_process: Any) -> None:
    (work.folder / "empty").mkdir()
    ended = in_process("show", *given)
    assert (ended.status, ended.out) == (2, "")
    messages = {
        (): "the following arguments are required: RUN_DIR; see parallelrun show --help",
        ("output", "--jsn"): "unknown option '--jsn'; did you mean '--json'?",
    }
    rule = "RUN_DIR must be a run directory (`parallelrun run` prints it when it starts), or an output folder"
    assert messages.get(given, rule) in ended.err
