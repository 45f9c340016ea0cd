# SPDX-License-Identifier: Apache-2.0
"""``parallelrun run``: results, bad input, exit statuses. Each test is a real run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from workplace import ECHO

ROWS = [f"{number:03d}.txt" for number in range(4)]


def test_a_run_and_its_summary(work: Any) -> None:
    ended = work.run(work.script(ECHO))
    assert ended.status == 0, ended.err
    assert work.rows() == ROWS
    result = json.loads((work.folder / "output" / "job_result.json").read_text())
    lines = dict(line.split(":", 1) for line in ended.out.splitlines())
    told = {name: text.strip() for name, text in lines.items()}
    assert told.pop("job").startswith("succeeded in ")
    assert told == {
        "mini-batches": "4 (4 succeeded, 0 short, 0 failed, 0 unprocessed)",
        "items": "4 (0 failed)",
        "rows": "4",
        "output file": str(work.folder / "output" / "parallel_run_step.txt"),
        "run directory": result["run_dir"],
        "logs": str(work.folder / "output" / "logs"),
    }
    start, where, last = ended.err.splitlines()
    assert start == "4 mini-batches of 4 items on 1 node"
    assert where == f"run directory: {result['run_dir']}"
    assert last.startswith("4 of 4 mini-batches done, 0 failed, ")


def test_inputs_are_split_each_on_its_own_in_order(work: Any) -> None:
    text = """
    import os
    def run(mini_batch):
        return [" ".join(os.path.relpath(path, mini_batch[0] + "/../..") for path in mini_batch)]
    """
    given = (
        "--input",
        work.files(3, "b"),
        "--input",
        f"{work.files(2, 'a')}/*.txt",
        "--mini-batch-size",
        "2",
    )
    ended = work.command("run", work.script(text), *given, "--output", "output", "--error-threshold", "-1")
    assert ended.status == 0, ended.err
    rows = (work.folder / "output" / "parallel_run_step.txt").read_text().splitlines()
    assert rows == ["b/000.txt b/001.txt", "b/002.txt", "a/000.txt a/001.txt"]


def test_the_script_gets_its_arguments_variables_models_and_folder(work: Any) -> None:
    (work.folder / "weights.bin").write_text("w")
    assert work.command("models", "register", "m", "weights.bin", "--models-root", "registry").status == 0
    text = """
    import os, sys
    from pathlib import Path
    import sibling
    from azureml.core import Model
    def run(mini_batch):
        model = Path(Model.get_model_path("m")).read_text()
        return [f"{sys.argv[1:]} {os.environ['MINE']} {sibling.NAME} {model}"]
    """
    script = work.script(text, "deep/score.py")
    work.script("NAME = 'sibling'", "sibling.py")
    options = (
        "--source-directory",
        "code",
        "--models-root",
        "registry",
        "--environment-variable",
        "MINE=yours",
    )
    ended = work.run(script, *options, "--", "--model", "mnist", files=1)
    assert ended.status == 0, ended.err
    assert work.rows() == ["['--model', 'mnist'] yours sibling w"]


def test_what_is_said_to_the_originals_driver_behind_the_dashes(work: Any) -> None:
    script = work.script("import sys\ndef run(mini_batch): return sys.argv[1:]")
    said = ("--", "--resource_monitor_interval=0", "--resource_monitor_interva", "20")
    ended = work.run(script, *said, files=1)
    assert ended.status == 0, ended.err
    assert work.rows() == sorted(said[1:])
    assert not (work.folder / "output" / "logs" / "sys" / "perf").exists()
    ended = work.run(script, "--resource-monitor-interval", "5", *said)
    assert ended.status == 2
    assert (
        "resource_monitor_interval is 5 in the configuration, and --resource_monitor_interval 0" in ended.err
    )


def test_summary_only_with_a_run_directory_elsewhere(work: Any) -> None:
    options = ("--output-action", "summary_only", "--run-directory-root", "runs")
    ended = work.command("run", work.script(ECHO), "--input", work.files(2), *options)
    assert ended.status == 0, ended.err
    assert "output file" not in ended.out
    assert str(work.folder / "runs") in ended.out
    assert not (work.folder / "output").exists()


def test_a_root_for_run_directories_has_an_output_for_each_run(work: Any) -> None:
    options = ("--input", work.files(2), "--run-directory-root", "root")
    files = []
    for step in ((), ("--step", "mine")):
        ended = work.command("run", work.script(ECHO), *options, *step)
        assert ended.status == 0, ended.err
        files.append(Path(re.search(r"output file: +(.*)", ended.out)[1]))
    assert [file.read_text() for file in files] == ["000.txt\n001.txt\n"] * 2
    first, second = (file.relative_to(work.folder / "root" / "outputs" / "cli").parts for file in files)
    assert (first[1][:6], second[1]) == ("score-", "mine")
    assert first[0] != second[0]


def test_the_file_name_and_the_interpreter(work: Any) -> None:
    ended = work.run(work.script(ECHO), "--append-row-file-name", "rows.txt", "--python", "python3")
    assert ended.status == 0, ended.err
    assert work.rows("rows.txt") == ROWS


def test_direct_hands_over_urls(work: Any) -> None:
    url = (work.folder / work.files(2)).as_uri()
    script = work.script("def run(mini_batch): return mini_batch")
    ended = work.command("run", script, "--input", url, "--direct", "--output", "output")
    assert ended.status == 0, ended.err
    assert len(work.rows()) == 2


def test_logs_are_shown_when_a_level_is_asked_for(work: Any) -> None:
    text = """
    import logging
    def run(mini_batch):
        logging.info("a word")
        return mini_batch
    """
    quiet = work.run(work.script(text))
    assert "a word" not in quiet.err
    loud = work.command(
        "run", "code/score.py", "--input", "input", "--output", "loud", "--logging-level", "INFO"
    )
    assert "a word" in loud.err
    assert loud.status == 0


def test_airflow_is_never_imported(work: Any) -> None:
    """The engine runs in this process; a module of that name would be found and break it."""
    (work.folder / "airflow.py").write_text("raise SystemExit('airflow was imported')")
    assert work.run(work.script(ECHO)).status == 0
    options = ("--input", "input", "--output", "two", "--mini-batch-size", "1", "--node-count", "2")
    assert work.command("run", "code/score.py", *options).status == 0


# Bad input: nothing starts, one clear message, status 2.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("missing.py", "--input", "input"), "there is no entry script 'missing.py' in the source directory"),
        (("code/score.py", "--input", "nowhere"), "does not exist. Check the path"),
        (("code/score.py", "--input", "empty"), "the input has no file"),
        (("code/score.py", "--input", "input", "--input", "empty"), "the input has no file"),
        (("code/score.py", "--input", "input/*.png"), "the input has no file"),
        (
            ("code/score.py", "--input", "input", "--mini-batch-size", "10KB"),
            "--mini-batch-size must be a number",
        ),
        (("code/broken.py", "--input", "input"), "broken.py: is not valid Python: line 1"),
    ],
)
def test_bad_input(given: tuple[str, ...], message: str, work: Any) -> None:
    work.files(1)
    (work.folder / "empty").mkdir()
    work.script(ECHO)
    work.script("def run(:\n", "broken.py")
    ended = work.command("run", *given, "--output", "output")
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not list(work.folder.glob("output/.parallelrun/*/plan.json"))


def test_a_script_without_run(work: Any) -> None:
    ended = work.run(work.script("def ran(mini_batch): return []"))
    assert ended.status == 2
    assert ended.err.endswith("parallelrun: score.py: the script has no function run(mini_batch)\n")


def test_an_output_folder_of_another_run(work: Any) -> None:
    script = work.script(ECHO)
    assert work.run(script).status == 0
    ended = work.run(script)
    assert ended.status == 2
    assert f"the output folder '{work.folder / 'output'}' belongs to another run (cli/" in ended.err
    assert work.rows() == ROWS


def test_a_file_of_another_origin_in_the_way(work: Any) -> None:
    (work.folder / "output").mkdir()
    (work.folder / "output" / "parallel_run_step.txt").write_text("mine")
    ended = work.run(work.script(ECHO))
    assert ended.status == 2
    assert "was not written by this run" in ended.err
    assert work.rows() == ["mine"]


# Scripts that fail: status 1, the user's own error last, no traceback of ours.


@pytest.mark.parametrize(
    ("init", "told"),
    [
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU (score.py, line 3, in init)"),
        ("os._exit(7)", "the process exited with status 7"),
        ("time.sleep(60)", "init() took longer than 1 s (init_timeout)"),
    ],
)
def test_init_that_fails(init: str, told: str, work: Any) -> None:
    text = f"""import os, time
def init():
    {init}
def run(mini_batch):
    return mini_batch
"""
    ended = work.run(work.script(text), "--init-timeout", "1")
    assert ended.status == 1
    assert "parallelrun: 3 processes of node 0 in a row died in init()" in ended.err
    assert told in ended.err
    assert "Full log: " in ended.err
    assert "airflow_parallelrun" not in ended.err
    assert "mini-batches:  4 (0 succeeded, 0 short, 0 failed, 4 unprocessed)" in ended.out


FAILING = {
    "none": ("return None", "ReturnValueError: run() returned None. Return a list"),
    "raises": ("raise ValueError('broken picture')", "ValueError: broken picture (score.py, line 7, in run)"),
    "exits": ("os._exit(9)", "the process exited with status 9"),
    "sleeps": ("time.sleep(60)", "run() took longer than 1 s (run_invocation_timeout)"),
}


def failing(body: str) -> str:
    return f"""
import os, time
def run(mini_batch):
    name = os.path.basename(mini_batch[0])
    if name != "001.txt":
        return [name]
    {body}
"""


@pytest.mark.parametrize("kind", FAILING)
def test_one_mini_batch_that_fails_above_the_threshold(kind: str, work: Any) -> None:
    body, told = FAILING[kind]
    options = ("--run-max-try", "1", "--run-invocation-timeout", "1")
    ended = work.run(work.script(failing(body)), *options)
    assert ended.status == 1
    assert told in ended.err
    assert "error_threshold" in ended.err
    assert ended.out.startswith("job:           failed in ")
    assert "failed items:  " in ended.out
    assert "output file" not in ended.out
    assert not (work.folder / "output" / "parallel_run_step.txt").exists()


@pytest.mark.parametrize("kind", FAILING)
def test_one_mini_batch_that_fails_below_the_threshold(kind: str, work: Any) -> None:
    body, told = FAILING[kind]
    options = ("--run-max-try", "1", "--run-invocation-timeout", "1", "--error-threshold", "1")
    ended = work.run(work.script(failing(body)), *options)
    assert ended.status == 0, ended.err
    assert ended.out.startswith("job:           succeeded with errors in ")
    assert "mini-batches:  4 (3 succeeded, 0 short, 1 failed, 0 unprocessed)" in ended.out
    assert work.rows() == ["000.txt", "002.txt", "003.txt"]
    failed = json.loads((work.folder / "output" / "failed_items.jsonl").read_text())
    assert failed["item"].endswith("001.txt")
    assert told.split(" (")[0] in f"{failed['error']['type']}: {failed['error']['message']}"


def test_raising_once_then_succeeding(work: Any) -> None:
    text = """
    import os
    def run(mini_batch):
        name = os.path.basename(mini_batch[0])
        marker = os.path.join(os.environ["MARKERS"], name)
        if not os.path.exists(marker):
            open(marker, "x").close()
            raise RuntimeError("the first time")
        return [name]
    """
    (work.folder / "markers").mkdir()
    ended = work.run(work.script(text), "--environment-variable", f"MARKERS={work.folder / 'markers'}")
    assert ended.status == 0, ended.err
    assert ended.out.startswith("job:           succeeded in ")
    assert work.rows() == ROWS


@pytest.mark.parametrize(("threshold", "status"), [("3", 1), ("4", 0)])
def test_fewer_elements_count_as_failed_items(threshold: str, status: int, work: Any) -> None:
    script = work.script("def run(mini_batch): return mini_batch[1:]")
    ended = work.run(script, "--error-threshold", threshold, "--mini-batch-size", "2", files=8)
    assert ended.status == status, ended.err
    # Above the threshold the rest may be left alone, so only the tolerated run has exact counts.
    if status == 0:
        assert "4 (0 succeeded, 4 short, 0 failed, 0 unprocessed)" in ended.out
        assert "items:         8 (4 failed)" in ended.out


def test_more_elements_are_accepted(work: Any) -> None:
    ended = work.run(work.script("def run(mini_batch): return ['x', 'y']"))
    assert ended.status == 0, ended.err
    assert "rows:          8" in ended.out


def test_no_row_at_all_fails_append_row(work: Any) -> None:
    script = work.script("def run(mini_batch): return []")
    ended = work.run(script, "--error-threshold", "-1")
    assert ended.status == 1
    assert "output_action is append_row and there is no row to append" in ended.err


def test_mini_batch_thresholds(work: Any) -> None:
    text = "def run(mini_batch): raise ValueError('always')"
    options = ("--error-threshold", "-1", "--allowed-failed-percent", "50", "--run-max-try", "1")
    ended = work.run(work.script(text), *options)
    assert ended.status == 1
    assert "ValueError: always" in ended.err


def test_the_same_again_is_nothing_to_do_where_that_is_asked_for(work: Any) -> None:
    script, options = work.script(ECHO), ("--run-directory-root", "root", "--allow-reuse")
    first = work.run(script, *options)
    assert first.status == 0, first.err
    assert "Nothing is reused: no earlier success of this step is known." in first.err
    second = work.command(
        "run", script, "--input", "input", "--mini-batch-size", "1", *options, "--output", "other"
    )
    assert second.status == 0, second.err
    assert re.fullmatch(r"nothing is run: run \S+ has come to the same\n", second.err)
    assert (work.folder / "other" / "parallel_run_step.txt").read_text().split() == ROWS
    assert str(work.folder / "other" / "parallel_run_step.txt") in second.out


def test_reuse_needs_a_place_where_runs_are_remembered(work: Any) -> None:
    ended = work.run(work.script(ECHO), "--allow-reuse")
    assert ended.status == 2
    assert "--allow-reuse needs --run-directory-root" in ended.err


def test_only_what_is_new_is_processed_where_that_is_asked_for(work: Any) -> None:
    script, options = work.script(ECHO), ("--run-directory-root", "root", "--only-new")
    assert work.run(script, *options, files=2).status == 0
    again = work.command("run", script, "--input", "input", *options)
    assert (again.status, again.out) == (0, "")
    assert "there is nothing new in" in again.err
    (work.folder / "input" / "new").touch()
    more = work.command("run", script, "--input", "input", *options)
    assert (more.status, dict(line.split(":", 1) for line in more.out.splitlines())["rows"].strip()) == (
        0,
        "1",
    )


def test_of_a_table_nobody_knows_which_rows_are_new(work: Any) -> None:
    options = ("--only-new", "--input-type", "tabular", "--table-format", "json_lines")
    ended = work.run(work.script(ECHO), *options)
    assert ended.status == 2
    assert "--only-new is for files" in ended.err
