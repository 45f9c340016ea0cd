# SPDX-License-Identifier: Apache-2.0
"""``parallelrun resume``: what succeeded is kept, the rest is run. Real processes, really killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from steered import FILES, NAMES, STEERED, assert_complete, assert_gone, eventually, told, until_held
from workplace import COMMAND, ECHO

if TYPE_CHECKING:
    from steered import Steered


# Killed.


@pytest.mark.parametrize("whole_tree", [True, False], ids=["tree", "command"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_run_that_was_killed_goes_on(nodes: int, whole_tree: bool, steered: Steered) -> None:
    process = steered.start("hold-004.txt", "hold-005.txt", nodes=nodes)
    below = until_held(steered, process)
    assert len(below) >= 3
    killed = [*below, psutil.Process(process.pid)] if whole_tree else [psutil.Process(process.pid)]
    for each in killed:
        each.kill()
    process.communicate(timeout=60)
    assert_gone(below)
    committed = steered.committed()
    assert not (steered.work.folder / "output" / "job_result.json").exists()

    before = steered.calls()
    steered.untell("hold-004.txt", "hold-005.txt")
    ended = steered.work.command("resume", str(steered.run_dir))
    assert ended.status == 0, ended.err
    assert f"{FILES - len(committed)} of {FILES} mini-batches are left to do" in ended.err
    assert f"{FILES} of {FILES} mini-batches done, 0 failed" in ended.err
    assert ended.out.startswith("job:           succeeded in ")
    again = Counter(set(NAMES) - committed) & before
    assert_complete(steered, again, 0)


def test_a_node_that_was_killed_is_made_up_for(steered: Steered) -> None:
    process = steered.start("hold-004.txt", "hold-005.txt", nodes=2)
    below = until_held(steered, process)
    # One that has work: the other may have ended already.
    victim = next(each for each in psutil.Process(process.pid).children() if each.children())
    index = victim.cmdline()[-1]
    victim.kill()
    eventually(lambda: not psutil.pid_exists(victim.pid) or victim.status() == psutil.STATUS_ZOMBIE)
    steered.untell("hold-004.txt", "hold-005.txt")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert f"parallelrun: node {index} ended without a report (exit status -9)" in err
    assert "0 unprocessed)" not in out
    assert_gone(below)

    committed, before = steered.committed(), steered.calls()
    assert committed != set(NAMES)
    ended = steered.work.command(*told(err))
    assert ended.status == 0, ended.err
    assert_complete(steered, Counter(set(NAMES) - committed) & before, 1)


def test_a_run_that_was_killed_before_any_node_started(steered: Steered) -> None:
    code = "from airflow_parallelrun.cli import main, run; run.run_plan = lambda *_: 9"
    given = (
        "code/score.py",
        "--input",
        steered.work.files(FILES),
        "--output",
        "output",
        "--mini-batch-size",
        "1",
    )
    steered.work.script(STEERED)
    variable = ("--environment-variable", f"STEERED={steered.folder}")
    command = [sys.executable, "-c", f"{code}; raise SystemExit(main())", "run", *given, *variable]
    environment = steered.work.environment()
    ended = subprocess.run(
        command, cwd=steered.work.folder, env=environment, capture_output=True, check=False
    )
    assert ended.returncode == 9, ended.stderr
    assert steered.work.command("resume", "output").status == 0
    assert_complete(steered, Counter(), 0)


def test_a_run_that_was_killed_before_its_result_was_out(steered: Steered) -> None:
    """Everything is committed, and nothing is called again."""
    assert steered.run().status == 0
    rows = (steered.work.folder / "output" / "parallel_run_step.txt").read_bytes()
    for name in ("parallel_run_step.txt", "job_result.json"):
        (steered.work.folder / "output" / name).unlink()
    for sealed in (steered.run_dir / "rounds").glob("*/sealed.json"):
        sealed.unlink()
    ended = steered.work.command("resume", str(steered.run_dir))
    assert ended.status == 0, ended.err
    assert_complete(steered, Counter(), 0)
    assert (steered.work.folder / "output" / "parallel_run_step.txt").read_bytes() == rows


# Interrupted.


@pytest.mark.parametrize("nodes", [1, 2])
def test_ctrl_c_tells_the_command_that_goes_on(nodes: int, steered: Steered) -> None:
    process = steered.start("hold-004.txt", "hold-005.txt", nodes=nodes)
    eventually(lambda: {"004.txt", "005.txt"} <= set(steered.calls()), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    committed, before = steered.committed(), steered.calls()
    assert f"interrupted; {len(committed)} of {FILES} mini-batches are committed. To go on:" in err

    # Again, and the second attempt is interrupted as well.
    again = steered.work.start(*told(err))
    eventually(lambda: steered.calls()["004.txt"] == 2 and steered.calls()["005.txt"] == 2, again)
    again.send_signal(signal.SIGINT)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 130
    steered.untell("hold-004.txt", "hold-005.txt")
    elsewhere = steered.work.folder / "elsewhere"
    elsewhere.mkdir()
    environment = steered.work.environment()
    ended = subprocess.run(
        [*COMMAND, *told(err)], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    calls = steered.calls()
    assert calls["004.txt"] == calls["005.txt"] == 3
    assert all(calls[name] == 1 for name in committed)
    assert set(calls) == set(NAMES)
    assert before <= calls
    assert steered.rows() == NAMES


# Failed.


def test_a_run_above_its_threshold_redoes_what_failed_and_what_was_left(steered: Steered) -> None:
    process = steered.start("hold-003.txt", "fail-003.txt", "hold-011.txt")
    eventually(lambda: {"003.txt", "011.txt"} <= set(steered.calls()), process)
    steered.untell("hold-003.txt")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ValueError: broken picture" in err
    assert "2 mini-batches failed or were not processed" in err

    # It fails once more, as long as the cause is there.
    steered.untell("hold-011.txt")
    ended = steered.work.command(*told(err))
    assert ended.status == 1
    assert "ValueError: broken picture" in ended.err
    assert steered.calls() - Counter(NAMES) == {"003.txt": 1, "011.txt": 1}
    assert "1 mini-batches failed or were not processed" in ended.err

    steered.untell("fail-003.txt")
    ended = steered.work.command(*told(ended.err))
    assert ended.status == 0, ended.err
    assert "1 of 12 mini-batches are left to do" in ended.err
    assert "1 of 1 mini-batches done, 0 failed" in ended.err
    assert_complete(steered, Counter({"003.txt": 2, "011.txt": 1}), 2)
    assert not (steered.work.folder / "output" / "failed_items.jsonl").exists()


def test_failures_that_were_tolerated_are_tried_again(steered: Steered) -> None:
    assert steered.run("fail-003.txt", options=("--error-threshold", "1")).status == 0
    assert len(steered.rows()) == FILES - 1
    steered.untell("fail-003.txt")
    ended = steered.work.command("resume", "output")
    assert ended.status == 0, ended.err
    assert_complete(steered, Counter({"003.txt": 1}), 1)


def test_init_that_failed_is_tried_again(work: Any) -> None:
    (work.folder / "no-weights").touch()
    text = """
    import os
    def init():
        if os.path.exists(WEIGHTS):
            raise OSError("away")
    def run(mini_batch):
        return [os.path.basename(path) for path in mini_batch]
    """
    script = work.script(text.replace("WEIGHTS", repr(str(work.folder / "no-weights"))))
    ended = work.run(script)
    assert ended.status == 1
    assert "OSError: away" in ended.err
    (work.folder / "no-weights").unlink()
    assert work.command(*told(ended.err)).status == 0
    assert work.rows() == NAMES[:4]


def test_what_no_other_try_can_change_names_no_command(steered: Steered) -> None:
    """The last one comes back too short: then nothing is left that could be done."""
    ended = steered.run("short-011.txt")
    assert ended.status == 1
    assert "1 short, 0 failed, 0 unprocessed" in ended.out
    assert "error_threshold" in ended.err
    assert "To go on" not in ended.err
    again = steered.work.command("resume", "output")
    assert again.status == 1
    assert "error_threshold" in again.err
    assert steered.calls() == Counter(NAMES)


# Nothing to do.


def test_a_run_that_has_succeeded_is_left_alone(steered: Steered) -> None:
    first = steered.run()
    assert first.status == 0
    output = steered.work.folder / "output"
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    ended = steered.work.command("resume", str(steered.run_dir))
    assert ended.status == 0, ended.err
    assert "0 of 12 mini-batches are left to do\nthe job has succeeded before" in ended.err
    assert ended.out.splitlines()[1:] == first.out.splitlines()[1:]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_an_output_that_is_gone_is_assembled_again(steered: Steered) -> None:
    assert steered.run().status == 0
    (steered.work.folder / "output" / "parallel_run_step.txt").unlink()
    ended = steered.work.command("resume", "output")
    assert ended.status == 0, ended.err
    assert_complete(steered, Counter(), 0)


def test_a_file_in_the_place_of_the_output_is_kept(steered: Steered) -> None:
    assert steered.run().status == 0
    rows = steered.work.folder / "output" / "parallel_run_step.txt"
    rows.unlink()
    rows.write_text("mine\n")
    ended = steered.work.command("resume", "output")
    assert ended.status == 2
    assert "exists and was not written by this run" in ended.err
    assert rows.read_text() == "mine\n"
    rows.unlink()
    assert steered.work.command(*told(ended.err)).status == 0
    assert steered.rows() == NAMES


# Somebody else.


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_command_that_is_still_at_work_gives_way(nodes: int, steered: Steered) -> None:
    older = steered.start("hold-004.txt", "hold-005.txt", nodes=nodes)
    eventually(lambda: {"004.txt", "005.txt"} <= set(steered.calls()), older)
    newer = steered.work.start("resume", "output")
    out, err = older.communicate(timeout=60)
    assert older.returncode == 1
    assert "another command goes on with this run (parallelrun resume), so this one has stopped" in err
    assert (out, newer.poll()) == ("", None)
    steered.untell("hold-004.txt", "hold-005.txt")
    _, err = newer.communicate(timeout=60)
    assert newer.returncode == 0, err
    assert re.search(r"another command seems to be at work on this run: node [01]-1 \(process \d+\)", err)
    assert steered.rows() == NAMES
    assert steered.result()["counts"]["succeeded"] == FILES


def test_an_output_folder_that_another_run_has_taken_is_left_to_it(work: Any) -> None:
    script = work.script(ECHO.replace("return", "raise ValueError('broken')\n    return"))
    ended = work.run(script, "--run-directory-root", "runs")
    assert ended.status == 1
    os.rename(work.folder / "output", work.folder / "old")
    assert work.run(work.script(ECHO)).status == 0
    again = work.command(*told(ended.err))
    assert again.status == 2
    assert "belongs to another run" in again.err
    assert work.rows() == NAMES[:4]


def test_a_run_of_airflow_is_left_to_airflow(work: Any) -> None:
    assert work.run(work.script(ECHO)).status == 0
    (plan,) = work.folder.glob("output/.parallelrun/*/plan.json")
    document = json.loads(plan.read_text())
    plan.write_text(json.dumps({**document, "owner": "nightly/manual__1/predict"}))
    ended = work.command("resume", "output")
    assert ended.status == 2
    assert "is a run of Airflow (nightly/manual__1/predict): clear its failed tasks there" in ended.err


# What is meant.


@pytest.mark.parametrize("given", [(), ("nowhere",), ("empty",), ("file",), ("a", "b"), ("--ouput", "a")])
def test_what_is_no_run_directory(given: tuple[str, ...], work: Any, in_process: Any) -> None:
    (work.folder / "empty").mkdir()
    (work.folder / "file").touch()
    ended = in_process("resume", *given)
    assert (ended.status, ended.out) == (2, "")
    messages = {
        (): "the following arguments are required: RUN_DIR; see parallelrun resume --help",
        ("a", "b"): "unexpected argument 'b': a glob needs quotes; see parallelrun resume --help",
        ("--ouput", "a"): "unknown option '--ouput'; known are: --help, -h.",
    }
    rule = "RUN_DIR must be a run directory (`parallelrun run` prints it when it starts), or an output folder"
    assert messages.get(given, rule) in ended.err


def test_of_several_run_directories_the_newest_is_named(work: Any, in_process: Any) -> None:
    for name in ("20260102T000000Z-aa", "20260101T000000Z-bb"):
        folder = work.folder / "output" / ".parallelrun" / name
        folder.mkdir(parents=True)
        (folder / "plan.json").touch()
    ended = in_process("resume", "output")
    assert ended.status == 2
    newest = work.folder / "output" / ".parallelrun" / "20260102T000000Z-aa"
    assert f"this folder has 2, of which the newest is {str(newest)!r}, got 'output'" in ended.err
