# SPDX-License-Identifier: Apache-2.0
"""The checker itself: a run that is in order has no breach, and each way to spoil one is found."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import checker
import pytest
from fault_case import Case, Scenario
from fault_kinds import fault, with_failures


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run with a failed mini-batch, and a node that was killed and started again."""
    scenario = with_failures(Scenario(items=12, pause_s=0.02, processes=1))
    scenario.steps["node 0"] = [[fault("pwrite", "kill", "/journal", at=2)]]
    case = Case(scenario, tmp_path_factory.mktemp("fault"), random.Random(0))
    outcome = case.play()
    assert outcome.survived and len(outcome.injected) == 1
    assert outcome.breaches == []
    return case


@pytest.fixture
def evidence(played, tmp_path):
    """A copy of that run, to spoil."""
    folder = tmp_path / "spoilt-run"
    shutil.copytree(played.folder, folder, symlinks=True)
    before = played._evidence()

    def moved(path):
        return folder / Path(path).relative_to(played.folder)

    foreign = {str(moved(name)): moved(name) for name in before.foreign}
    return dataclasses.replace(
        before,
        **{name: moved(getattr(before, name)) for name in ("output", "run_dir", "calls", "marks", "temp")},
        tag=folder.name,
        foreign={name: checker.fingerprint(path) if path.is_file() else "" for name, path in foreign.items()},
    )


def kinds(evidence):
    """The kinds of breach that the checker finds."""
    return {breach.kind for breach in checker.check(evidence)}


def edit_rows(evidence, change):
    """Change the lines of the output file in place."""
    path = evidence.output / checker.OUTPUT_FILE
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))


def edit_json(path, **values):
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def of_many_rows(lines):
    """The place of the first row of an item that has several."""
    return next(number for number, line in enumerate(lines) if " 1/3 " in line or " 1/2 " in line)


def test_it_imports_nothing_of_the_package():
    code = "import checker, sys; assert not [m for m in sys.modules if 'parallelrun' in m]"
    subprocess.run([sys.executable, "-c", code], cwd=Path(checker.__file__).parent, check=True)


def test_a_run_that_is_in_order_has_no_breach(evidence):
    assert checker.check(evidence) == []


def test_an_item_without_rows_is_lost(evidence):
    name = "00000"
    edit_rows(
        evidence, lambda lines: lines.__setitem__(slice(None), [x for x in lines if not x.startswith(name)])
    )
    assert kinds(evidence) == {checker.LOST}


def test_a_row_that_is_there_twice_is_doubled(evidence):
    edit_rows(evidence, lambda lines: lines.append(lines[0]))
    assert kinds(evidence) == {checker.DOUBLED}


def test_a_healthy_item_that_the_ledger_calls_failed_is_lost(evidence):
    assert kinds(dataclasses.replace(evidence, may_fail=frozenset())) == {checker.LOST}


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines.__setitem__(0, lines[0][:20] + "~" + lines[0][21:]),
        lambda lines: lines.__setitem__(-1, lines[-1].rstrip("\n")),
        lambda lines: lines.__setitem__(0, lines[0][: len(lines[0]) // 2]),
        lambda lines: lines.insert(1, "\n"),
        lambda lines: lines.reverse(),
        lambda lines: lines.pop(of_many_rows(lines)),
    ],
    ids=["a byte", "the last newline", "half a line", "an empty line", "the order", "a part of an item"],
)
def test_what_is_not_exactly_the_rows_is_torn(evidence, change):
    edit_rows(evidence, change)
    assert checker.TORN in kinds(evidence)


def test_a_row_with_a_good_checksum_and_a_wrong_text_is_torn(evidence):
    text = "00000 1/1 something"
    edit_rows(evidence, lambda lines: lines.insert(0, f"{text} {zlib.crc32(text.encode()):08x}\n"))
    assert kinds(evidence) == {checker.TORN}


@pytest.mark.parametrize("key", ["succeeded", "failed", "items", "items_succeeded", "items_failed", "rows"])
def test_each_count_is_compared(evidence, key):
    path = evidence.output / "job_result.json"
    counts = json.loads(path.read_text())["counts"]
    edit_json(path, counts={**counts, key: counts[key] + 1})
    assert kinds(evidence) == {checker.LEDGER}


def test_verdict_and_round_are_compared(evidence):
    path = evidence.output / "job_result.json"
    edit_json(path, verdict="succeeded")
    assert kinds(evidence) == {checker.LEDGER}
    edit_json(path, verdict="succeeded with errors", round=7)
    assert kinds(evidence) == {checker.LEDGER}


def test_a_failed_job_with_rows_does_not_add_up(evidence):
    edit_json(evidence.output / "job_result.json", verdict="failed")
    assert kinds(evidence) == {checker.LEDGER}


def test_a_failed_item_that_is_not_listed_does_not_add_up(evidence):
    path = evidence.output / "failed_items.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert kinds(evidence) == {checker.LEDGER}


def test_no_result_is_a_breach(evidence):
    (evidence.output / "job_result.json").unlink()
    assert kinds(evidence) == {checker.LEDGER}


def test_rows_whose_journal_line_does_not_count_do_not_add_up(evidence):
    for path in (evidence.run_dir / "segments").iterdir():
        path.write_bytes(
            bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:] if path.stat().st_size else b""
        )
    assert checker.LEDGER in kinds(evidence)


@pytest.mark.parametrize("where", ["output", "run_dir", "temp"])
def test_a_temporary_file_is_left_over(evidence, where):
    (getattr(evidence, where) / ".tmp-rows").touch()
    assert kinds(evidence) == {checker.LEFT_OVER}


@pytest.mark.parametrize("argument", [True, False], ids=["command line", "environment"])
def test_a_process_is_left_over(evidence, argument):
    code = "import sys; print(flush=True); sys.stdin.read()"
    tag = evidence.tag
    process = subprocess.Popen(
        [sys.executable, "-c", code, *([tag] if argument else [])],
        env={} if argument else {"A": tag},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        assert kinds(evidence) == {checker.LEFT_OVER}
        process.stdin.close()
    assert kinds(evidence) == set()


def test_foreign_files_are_watched(evidence):
    notes = evidence.output / "notes.txt"
    notes.write_text(notes.read_text())
    assert kinds(evidence) == {checker.FOREIGN}
    notes.unlink()
    assert kinds(evidence) == {checker.FOREIGN}


def test_an_unknown_file_in_the_output_is_foreign(evidence):
    (evidence.output / "surprise").touch()
    assert kinds(evidence) == {checker.FOREIGN}


def test_what_was_journalled_and_is_run_again_is_redone(evidence):
    marks = [json.loads(path.read_text()) for path in sorted(evidence.marks.iterdir())]
    (name, length), *_ = marks[-1]["journals"].items()
    lines = (evidence.run_dir / "journal" / name).read_bytes()[:length].splitlines()
    done = json.loads(lines[1])["ordinal"]
    calls = next(evidence.calls.glob("0-2-*"))
    with calls.open("a") as file:
        file.write(f"{2 * done:05d}\n")
    assert kinds(evidence) == {checker.REDONE}
