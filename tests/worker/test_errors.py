# SPDX-License-Identifier: Apache-2.0
"""A user's exception as data: theirs, not ours, and never too much of it."""

from __future__ import annotations

import importlib.util
import json
import os
import textwrap

import pytest

from airflow_parallelrun.worker import errors, runtime
from airflow_parallelrun.worker.errors import MESSAGE_LIMIT, TRACEBACK_LIMIT, describe, problem
from airflow_parallelrun.worker.loading import Loaded
from airflow_parallelrun.worker.output import Origin


@pytest.fixture
def caught(tmp_path, monkeypatch):
    """Run a script's run() as a worker does, in its folder, and describe what it raised."""
    monkeypatch.chdir(tmp_path)

    def run(text, value="x"):
        path = tmp_path / "score.py"
        path.write_text(textwrap.dedent(text))
        spec = importlib.util.spec_from_file_location("score", path)
        module = importlib.util.module_from_spec(spec)
        script = runtime.EntryScript.__new__(runtime.EntryScript)
        try:
            spec.loader.exec_module(module)
            script._run, script._takes_context, script._profiler = module.run, False, None
            script.run(Loaded([value], [value], 1, None, {}), Origin(0, [value], None, 1))
        except BaseException as error:  # noqa: BLE001 - SystemExit is described too
            described = describe(error, str(tmp_path))
        assert json.loads(json.dumps(described)) == described
        return described

    return run


def test_type_message_and_the_innermost_line_of_their_own(caught):
    described = caught("""\
        import json
        def run(batch):
            return parse(batch[0])
        def parse(text):
            return json.loads(text)
        """)
    assert described["type"] == "JSONDecodeError"
    assert described["message"] == "Expecting value: line 1 column 1 (char 0)"
    assert described["frame"] == "score.py, line 5, in parse"
    shown = [line for line in described["traceback"].splitlines() if "score.py" in line]
    assert [line.split('score.py", ')[1] for line in shown] == ["line 3, in run", "line 5, in parse"]
    assert "decoder.py" in described["traceback"]
    assert described["traceback"].endswith("Expecting value: line 1 column 1 (char 0)\n")


def test_our_own_frames_are_not_shown(caught):
    described = caught("def run(batch): raise ValueError('x')")
    assert "airflow_parallelrun" not in described["traceback"]
    assert "runtime.py" not in described["traceback"]


def test_a_module_beside_the_script_is_their_own_too(caught, tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "deep_e1.py").write_text("def fail(): raise KeyError('k')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    described = caught("import deep_e1\ndef run(batch): deep_e1.fail()")
    assert described["frame"] == "lib/deep_e1.py, line 1, in fail"
    assert described["message"] == "'k'"


@pytest.mark.parametrize(
    "body",
    [
        "with open(PATH, encoding='utf-8') as file: file.read()",
        "exec('1 / 0')",
        "eval('[][1]')",
        "__import__('collections').namedtuple('T', 'a')()",
    ],
)
def test_made_up_file_names_are_not_a_place(caught, tmp_path, body):
    (tmp_path / "bad").write_bytes(b"\xff" * 10)
    described = caught(f"PATH = {str(tmp_path / 'bad')!r}\ndef run(batch):\n    {body}\n")
    assert described["frame"] == "score.py, line 3, in run"


def test_an_error_in_the_import_of_the_script(caught):
    described = caught("import no_such_module_at_all\n")
    assert described["type"] == "ModuleNotFoundError"
    assert described["frame"] == "score.py, line 1, in <module>"
    assert "importlib" not in described["traceback"]


def test_an_error_outside_of_their_code_has_the_last_place_known():
    try:
        json.loads("")
    except ValueError as error:
        described = describe(error, "/nowhere")
    assert "decoder.py" in described["frame"]


def test_an_error_that_was_never_raised_has_no_place():
    described = describe(ValueError("x"), "/nowhere")
    assert described["frame"] is None
    assert described["traceback"] == "ValueError: x\n"


def test_causes_are_told(caught):
    described = caught("""\
        def run(batch):
            try:
                {}["key"]
            except KeyError as error:
                raise RuntimeError("outer") from error
        """)
    assert described["message"] == "outer"
    assert "KeyError: 'key'" in described["traceback"]
    assert "direct cause" in described["traceback"]


def test_context_is_told_unless_it_was_suppressed(caught):
    text = "def run(batch):\n    try: 1 / 0\n    except ArithmeticError: raise ValueError('v')"
    assert "division by zero" in caught(text)["traceback"]
    assert "division by zero" not in caught(f"{text} from None")["traceback"]


def test_messages_and_tracebacks_are_bounded(caught):
    described = caught("def run(batch): raise ValueError('x' * 10**6)")
    assert len(described["message"]) < MESSAGE_LIMIT + 50
    assert described["message"].endswith("… (1000000 characters)")
    assert len(described["traceback"]) <= TRACEBACK_LIMIT


def test_endless_recursion_is_bounded(caught):
    described = caught("def run(batch): return run(batch)")
    assert described["type"] == "RecursionError"
    assert len(described["traceback"]) <= TRACEBACK_LIMIT
    assert described["traceback"].rstrip().endswith("maximum recursion depth exceeded")


@pytest.mark.parametrize("broken", ["raise RuntimeError('no')", "return 3"])
def test_an_error_that_cannot_be_shown_is_still_told(caught, broken):
    described = caught(f"""\
        class Odd(Exception):
            def __str__(self):
                {broken}
        def run(batch):
            raise Odd
        """)
    assert described["type"] == "Odd"
    assert described["frame"] == "score.py, line 5, in run"


def test_text_that_is_no_utf8_is_told(caught):
    described = caught("def run(batch): raise OSError('\\udcff')")
    assert described["message"] == "\udcff"


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_exits_are_errors_like_others(caught, kind):
    assert caught(f"def run(batch): raise {kind}('bye')")["type"] == kind


def test_a_problem_has_the_same_form():
    described = problem("ShortReturn", "y" * 10_000)
    assert set(described) == set(describe(ValueError(), "/"))
    assert len(described["message"]) < MESSAGE_LIMIT + 50


def test_what_is_ours():
    assert errors._is_ours(runtime.__file__)
    assert not errors._is_ours(os.path.join(os.path.dirname(runtime.__file__), "below", "x.py"))
