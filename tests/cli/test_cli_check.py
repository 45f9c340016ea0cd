# SPDX-License-Identifier: Apache-2.0
"""``parallelrun check``: one mini-batch in the foreground."""

from __future__ import annotations

import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def check(work: Any, text: str, *options: str, stdin: str = "") -> Any:
    given = ("check", work.script(text), "--input", work.files(3), *options)
    return work.command(*given, stdin=stdin)


def test_shows_what_run_returned_and_calls_everything_once(work: Any) -> None:
    text = """
    import logging, os, sys
    def init(): print("init with", sys.argv[1:])
    def run(mini_batch):
        logging.info("run of %d", len(mini_batch))
        return [os.path.basename(path) for path in mini_batch]
    def shutdown(): print("shut down")
    """
    ended = check(work, text, "--mini-batch-size", "2", "--", "--model", "mnist")
    assert ended.status == 0
    lines = [line for line in ended.out.splitlines() if not line.endswith(" s")]
    assert lines == [
        "init with ['--model', 'mnist']",
        "run() returned a list of 2 elements for 2 items",
        "rows, as they would be written:",
        "  000.txt",
        "  001.txt",
        "shut down",
    ]
    assert "INFO root: run of 2" in ended.err


def test_shows_the_first_rows_only(work: Any) -> None:
    ended = check(work, "def run(mini_batch): return list(range(100))")
    assert ended.status == 0
    assert "returned a list of 100 elements for 3 items\n" in ended.out
    assert "  4\n  … and 95 more\n" in ended.out
    assert "  5\n" not in ended.out


@pytest.mark.parametrize(
    ("row_format", "shown"),
    [
        ("csv", "  name,n\n  000.txt,1\n"),
        ("jsonl", '  {"name":"000.txt","n":1}\n'),
        ("parquet", "  name: string, n: int64\n  {'name': '000.txt', 'n': 1}\n"),
    ],
)
def test_shows_rows_of_every_format(row_format: str, shown: str, work: Any) -> None:
    text = """
    import os
    def run(mini_batch):
        return [{"name": os.path.basename(path), "n": 1} for path in mini_batch]
    """
    ended = check(work, text, "--append-row-format", row_format)
    assert ended.status == 0, ended.err
    assert "returned a list of 3 elements for 3 items\nrows, as they would be written:\n" + shown in ended.out


def test_shows_the_models_that_the_script_asked_for(work: Any) -> None:
    (work.folder / "weights.bin").write_text("w")
    work.command("models", "register", "m", "weights.bin", "--models-root", "registry")
    text = """
    from azureml.core import Model
    def init(): Model.get_model_path("m")
    def run(mini_batch): return [1, 2, 3]
    """
    ended = check(work, text, "--models-root", "registry", "--provenance-column", "model_version")
    assert "  1 m:1\n  2 m:1\n" in ended.out


def test_a_variable_of_the_shell_that_no_worker_gets_is_not_there(
    work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_HERE", "1")
    ended = check(work, "import os\ndef run(mini_batch): return [os.environ.get('ONLY_HERE')]")
    assert "  None\n" in ended.out


def test_says_what_would_count_as_failed(work: Any) -> None:
    ended = check(work, "def run(mini_batch): return mini_batch[:1]")
    assert ended.status == 0
    assert "1 elements for 3 items: 2 would count as failed" in ended.out


def test_the_script_finds_what_a_worker_gives_it(work: Any) -> None:
    (work.folder / "weights.bin").write_text("w")
    registered = work.command("models", "register", "m", "weights.bin", "--models-root", "registry")
    assert registered.status == 0
    (work.folder / "code").mkdir()
    (work.folder / "code" / "sibling.py").write_text("NAME = 'sibling'")
    text = """
    import os
    from pathlib import Path
    import sibling
    from azureml.core import Model
    from azureml_user.parallel_run import EntryScript
    def init():
        assert os.path.dirname(os.path.abspath(__file__)) == os.getcwd()
        assert Path(Model.get_model_path("m")).read_text() == "w"
        Path(EntryScript().output_dir, "note").write_text("x")
        assert os.environ["AZUREML_BI_OUTPUT_PATH"] == EntryScript().output_dir
    def run(mini_batch, context):
        return [sibling.NAME, os.environ["MINE"], context.minibatch_index]
    """
    ended = check(work, text, "--models-root", "registry", "--environment-variable", "MINE=yours")
    assert ended.status == 0, ended.err
    assert "  sibling\n  yours\n  0\n" in ended.out
    assert "the script wrote files to " in ended.out
    assert not (work.folder / "output").exists()


@pytest.mark.parametrize(
    ("text", "last_line"),
    [
        ("def run(mini_batch): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def init(): raise KeyError('x')\ndef run(mini_batch): return []", "KeyError: 'x'"),
        ("import sys\ndef run(mini_batch): sys.exit(3)", "SystemExit: 3"),
        ("def run(mini_batch:\n", "SyntaxError: '(' was never closed"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_the_scripts_own_error_is_shown_as_python_shows_it(text: str, last_line: str, work: Any) -> None:
    ended = check(work, text)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == last_line
    assert "Traceback" in ended.err or "SyntaxError" in ended.err
    assert "airflow_parallelrun" not in ended.err


def test_none_is_explained(work: Any) -> None:
    ended = check(work, "def run(mini_batch): print('here')")
    assert ended.status == 1
    assert "here\n" in ended.out
    assert ended.err.startswith("parallelrun: run() returned None. Return a list")


def test_a_script_without_run(work: Any) -> None:
    ended = check(work, "def ran(mini_batch): return []")
    assert (ended.status, ended.err) == (
        2,
        "parallelrun: score.py: the script has no function run(mini_batch)\n",
    )


def test_a_settings_file_that_is_not_json(work: Any) -> None:
    work.script("{", "parallel_run_step.settings.json")
    ended = check(work, "def run(mini_batch): return []")
    assert ended.status == 2
    assert "parallelrun: score.py: parallel_run_step.settings.json is not JSON" in ended.err


def test_no_such_script(work: Any) -> None:
    ended = work.command("check", "missing.py", "--input", work.files(1))
    assert ended.status == 2
    assert "there is no entry script 'missing.py'" in ended.err


def test_every_input_is_looked_at(work: Any) -> None:
    given = ("check", work.script("def run(mini_batch): return []"), "--input", work.files(1))
    ended = work.command(*given, "--input", "missing")
    assert ended.status == 2
    assert "does not exist" in ended.err


def test_a_debugger_works(work: Any) -> None:
    text = """
    def run(mini_batch):
        breakpoint()
        return mini_batch
    """
    ended = check(work, text, stdin="p len(mini_batch) + 40\ncontinue\n")
    assert ended.status == 0, ended.err
    assert "43" in ended.out
    assert "run() returned a list of 3 elements" in ended.out


def test_ctrl_c_works(work: Any) -> None:
    text = """
    import time
    def run(mini_batch):
        print("sleeping", flush=True)
        time.sleep(60)
    """
    process = work.start("check", work.script(text), "--input", work.files(1))
    assert process.stdout is not None
    while process.stdout.readline().strip() != "sleeping":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert "in run" in err


def test_another_interpreter_is_refused(in_process: Callable[..., Any]) -> None:
    ended = in_process("check", "score.py", "--input", "in", "--python", "/bin/sh")
    assert ended.status == 2
    assert "/bin/sh -m airflow_parallelrun.cli check" in ended.err


def test_the_same_interpreter_is_not(work: Any) -> None:
    assert check(work, "def run(mini_batch): return []", "--python", sys.executable).status == 0


def test_what_is_said_to_the_originals_driver_is_checked_here_too(work: Any) -> None:
    ended = check(work, "def run(mini_batch): return mini_batch", "--", "--profiling_module", "perf")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "parallelrun: --profiling_module must be cProfile or profile, got 'perf'.\n"


def test_code_in_an_archive(work: Any) -> None:
    work.script("import helper\ndef run(mini_batch): return [helper.NAME]", "jobs/score.py")
    work.script("NAME = 'from the archive'", "jobs/helper.py")
    shutil.make_archive(str(work.folder / "code"), "zip", work.folder / "code")
    shutil.rmtree(work.folder / "code")
    source = ("--source-directory", "code.zip")
    ended = work.command("check", "jobs/score.py", *source, "--input", work.files(1))
    assert ended.status == 0, ended.err
    assert "  from the archive\n" in ended.out
    assert "wrote files" not in ended.out
    ended = work.command("run", "jobs/score.py", *source, "--input", "input", "--output", "output")
    assert ended.status == 0, ended.err
    assert work.rows() == ["from the archive"]
