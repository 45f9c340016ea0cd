# SPDX-License-Identifier: Apache-2.0
"""``parallelrun redrive``: what failed or came back short, once more. Real processes, really killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from steered import FILES, NAMES, STEERED, assert_complete, assert_gone, eventually, told
from workplace import ECHO

if TYPE_CHECKING:
    from pathlib import Path

    from steered import Steered
    from workplace import Ended

TOLERATED = ("--error-threshold", "5")


def results(steered: Steered) -> dict[str, tuple[bytes, int]]:
    """Return content and inode of each published file."""
    found: list[Path] = [path for path in (steered.work.folder / "output").iterdir() if path.is_file()]
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in found}


def first(steered: Steered, *flags: str) -> Ended:
    """Run with failures that are tolerated."""
    ended = steered.run(*flags, options=TOLERATED)
    assert ended.status == 0, ended.err
    return ended


def test_the_failed_and_the_short_ones_are_run_again(steered: Steered) -> None:
    ended = first(steered, "fail-003.txt", "short-007.txt")
    assert len(steered.rows()) == FILES - 2
    found = re.search(
        r"2 mini-batches failed or came back short, which was tolerated\. .*: parallelrun (redrive .+)$",
        ended.err,
        re.MULTILINE,
    )
    assert found, ended.err
    inode = results(steered)["parallel_run_step.txt"][1]
    steered.untell("fail-003.txt", "short-007.txt")
    ended = steered.work.command(*shlex.split(found[1]))
    assert ended.status == 0, ended.err
    assert f"run directory: {steered.run_dir}\n2 of 12 mini-batches (2 items) are run again\n" in ended.err
    assert "2 of 2 mini-batches done, 0 failed" in ended.err
    assert "redrive" not in ended.err.partition("2 items")[2]
    assert ended.out.startswith("job:           succeeded in ")
    assert_complete(steered, Counter({"003.txt": 1, "007.txt": 1}), 1)
    assert results(steered)["parallel_run_step.txt"][1] != inode
    assert set(results(steered)) == {"parallel_run_step.txt", "job_result.json"}


def test_where_nothing_failed_nothing_is_done(steered: Steered) -> None:
    ended = first(steered)
    assert "redrive" not in ended.err
    before = results(steered)
    again = steered.work.command("redrive", "output")
    assert again.status == 0, again.err
    assert "no mini-batch has failed or come back short: there is nothing to run again" in again.err
    assert again.out.splitlines()[1:] == ended.out.splitlines()[1:]
    assert results(steered) == before
    assert steered.calls() == Counter(NAMES)


def test_without_an_output_folder(work: Any) -> None:
    fixed = ("--input", work.files(3), "--run-directory-root", "runs", "--output-action", "summary_only")
    assert work.command("run", work.script(ECHO), *fixed).status == 0
    ended = work.command("redrive", "runs")
    assert (ended.status, "there is nothing to run again" in ended.err) == (0, True)
    assert ended.out.startswith("job:           succeeded in ")


def test_a_run_that_failed_is_resumed(steered: Steered) -> None:
    assert steered.run("fail-003.txt").status == 1
    ended = steered.work.command("redrive", "output")
    assert ended.status == 2
    assert "cannot be redriven: it failed: 1 items failed, error_threshold is 0" in ended.err
    steered.untell("fail-003.txt")
    assert steered.work.command(*told(ended.err)).status == 0


# How it is run.


def test_a_repaired_script_counts_when_it_is_asked_for(steered: Steered) -> None:
    first(steered, "fail-003.txt")
    mended = STEERED.replace('raise ValueError("broken picture")', 'return ["mended " + name]')
    steered.work.script(mended)
    ended = steered.work.command("redrive", "output")
    assert ended.status == 0, ended.err
    assert "1 mini-batch failed or came back short" in ended.err
    assert len(steered.rows()) == FILES - 1
    ended = steered.work.command("redrive", "output", "--fresh-code")
    assert ended.status == 0, ended.err
    assert steered.rows() == sorted([*(name for name in NAMES if name != "003.txt"), "mended 003.txt"])
    assert steered.calls() == Counter([*NAMES, "003.txt", "003.txt"])


def test_a_script_that_cannot_be_used_is_refused_at_once(steered: Steered) -> None:
    first(steered, "fail-003.txt")
    before = results(steered)
    steered.work.script("def run(:")
    ended = steered.work.command("redrive", "output", "--fresh-code")
    assert ended.status == 2
    assert "score.py: is not valid Python: line 1" in ended.err
    os.rename(steered.work.folder / "code", steered.work.folder / "moved")
    ended = steered.work.command("redrive", "output", "--fresh-code")
    assert ended.status == 2
    assert re.search(r"--source-directory must be an existing folder, .* \(looked at '.+/code'\)", ended.err)
    assert results(steered) == before


SAYS = """
import os, sys
def run(mini_batch):
    name = os.path.basename(mini_batch[0])
    if name == "001.txt" and os.environ["MOOD"] == "bad":
        raise ValueError("broken picture")
    return [" ".join([name, *sys.argv[1:], os.environ["MOOD"], os.environ["PLACE"]])]
"""


def test_options_and_arguments_may_be_others(work: Any) -> None:
    variables = ("--environment-variable", "MOOD=bad", "--environment-variable", "PLACE=here")
    assert work.run(work.script(SAYS), *variables, "--error-threshold", "1", "--", "--old").status == 0
    given = ("--environment-variable", "MOOD=good", "--run-max-try", "7", "--node-count", "2")
    ended = work.command("redrive", "output", *given, "--", "--new", "3")
    assert ended.status == 0, ended.err
    rest = [f"{name} --old bad here" for name in ("000.txt", "002.txt", "003.txt")]
    assert work.rows() == sorted([*rest, "001.txt --new 3 good here"])
    (record,) = work.folder.glob("output/.parallelrun/*/redrives/1-1")
    assert json.loads(record.read_text())["config"]["run_max_try"] == 7


def test_what_is_said_to_the_originals_driver_counts_anew(work: Any) -> None:
    fails = ECHO.replace("return", "if '001' in mini_batch[0]: raise OSError\n    return")
    given = ("--task_overhead_timeout", "900", "--resource_monitor_interval", "0")
    ended = work.run(work.script(fails), "--error-threshold", "1", "--", *given)
    assert ended.status == 0, ended.err

    def recorded(*given: str) -> tuple[int, int]:
        ended = work.command("redrive", "output", *given)
        assert ended.status == 0, ended.err
        newest = max(work.folder.glob("output/.parallelrun/*/redrives/*"), key=os.path.getmtime)
        config = json.loads(newest.read_text())["config"]
        return config["task_overhead_timeout"], config["resource_monitor_interval"]

    assert recorded() == (900, 0)
    assert recorded("--", "--task_overhead_timeout=100") == (100, 600)
    assert recorded("--resource-monitor-interval", "5", "--", "--own", "x") == (600, 5)
    ended = work.command("redrive", "output", "--", "--append_row_dataframe_header", "true")
    told = (
        "--append_row_dataframe_header among the script's arguments: cannot be changed: input, mini-batches"
    )
    assert (ended.status, told in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--error-threshold", "3"), "--error-threshold: cannot be changed: input, mini-batches, thresholds"),
        (("--append_row_file_name=x",), "--append-row-file-name: cannot be changed"),
        (("--strict-returns",), "--strict-returns: cannot be changed"),
        (("--input", "a"), "--input: cannot be changed"),
        (("--run-max-try", "0"), "--run-max-try must be a whole number of tries, 1 or more, got 0."),
        (("--run-max-tri", "2"), "unknown option '--run-max-tri'; did you mean '--run-max-try'?"),
        (("--python", "no-such-python"), "--python must be an interpreter's path"),
    ],
)
def test_what_cannot_be_changed_and_what_is_wrong(
    given: tuple[str, ...], message: str, work: Any, in_process: Any
) -> None:
    assert work.run(
        work.script(ECHO.replace("return", "raise OSError\n    return")), "--error-threshold", "9"
    )
    ended = in_process("redrive", "output", *given)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert not list(work.folder.glob("output/.parallelrun/*/redrives"))


# Cut short.


@pytest.mark.parametrize("how", ["interrupted", "killed"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_redrive_that_is_cut_short_leaves_the_output_and_goes_on(
    how: str, nodes: int, steered: Steered
) -> None:
    first(steered, "fail-001.txt", "fail-010.txt", "short-007.txt")
    before = results(steered)
    steered.untell("fail-001.txt", "fail-010.txt", "short-007.txt")
    steered.tell("hold-007.txt", "hold-010.txt")
    process = steered.work.start("redrive", "output", "--node-count", str(nodes), "--run-max-try", "5")
    eventually(lambda: {"001.txt", "007.txt", "010.txt"} <= {*(steered.calls() - Counter(NAMES))}, process)
    eventually(lambda: len(steered.committed()) == FILES - 2, process)
    below = psutil.Process(process.pid).children(recursive=True)
    if how == "killed":
        process.kill()
        process.communicate(timeout=60)
        command = ["resume", str(steered.run_dir)]
    else:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        command = told(err)
    assert_gone(below)
    assert results(steered) == before

    # Somebody else's redrive is not mixed with it.
    refused = steered.work.command("redrive", "output")
    assert refused.status == 2
    assert re.search(r"the redrive that cli/\w+ asked for at \S+Z has not ended\. To go on: ", refused.err)
    # What resumes it is told what it is to do, and how: it has the redrive's options.
    steered.untell("hold-007.txt", "hold-010.txt")
    ended = steered.work.command(*command)
    assert ended.status == 0, ended.err
    assert "2 of 12 mini-batches are left to do" in ended.err
    assert_complete(steered, Counter({"001.txt": 1, "007.txt": 2, "010.txt": 2}), 1)
    starts = {path.name for path in (steered.run_dir / "attempts").iterdir()}
    assert starts == {"0-1", "0-2", "0-3", *(["1-1", "1-2"] if nodes == 2 else [])}


def test_a_redrive_that_gets_nothing_done_says_so(work: Any) -> None:
    """The new script has a slip: nobody has run what was to be run, and the output stays."""
    text = (
        "import os\ndef run(mini_batch):\n    if '001' in mini_batch[0]:\n        raise ValueError('bad')\n"
    )
    rest = "    return [os.path.basename(path) for path in mini_batch]\n"
    assert work.run(work.script(text + rest), "--error-threshold", "1").status == 0
    work.script("def init():\n    raise OSError('no weights')\n" + ECHO)
    ended = work.command("redrive", "output", "--fresh-code")
    assert ended.status == 1
    assert ended.out.startswith("job:           succeeded with errors in ")
    assert "OSError: no weights" in ended.err
    assert "1 mini-batches were to be run again and were not (1): what they came to before still" in ended.err
    assert work.rows() == ["000.txt", "002.txt", "003.txt"]
    work.script(ECHO)
    assert work.command("redrive", "output", "--fresh-code").status == 0
    assert work.rows() == ["000.txt", "001.txt", "002.txt", "003.txt"]


# Somebody else.


def test_a_run_of_airflow_is_left_to_airflow(work: Any) -> None:
    assert work.run(work.script(ECHO)).status == 0
    (plan,) = work.folder.glob("output/.parallelrun/*/plan.json")
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "owner": "nightly/manual__1/predict"}))
    ended = work.command("redrive", "output")
    assert ended.status == 2
    call = 'trigger the DAG nightly with the conf {"redrive_of": "manual__1"} instead.'
    assert f"is a run of Airflow (nightly/manual__1/predict): {call}" in ended.err


def test_an_output_folder_that_another_run_has_taken_is_left_to_it(work: Any) -> None:
    script = work.script(ECHO.replace("return", "if '001' in mini_batch[0]: raise OSError\n    return"))
    assert work.run(script, "--run-directory-root", "runs", "--error-threshold", "1").status == 0
    os.rename(work.folder / "output", work.folder / "old")
    assert work.run(work.script(ECHO)).status == 0
    ended = work.command("redrive", "runs")
    assert ended.status == 2
    assert "the result of its last round is not in" in ended.err
    assert work.rows() == NAMES[:4]
