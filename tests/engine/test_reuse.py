# SPDX-License-Identifier: Apache-2.0
"""An earlier success stands for a run that would come to the same. Scripts really run, or really do not."""

from __future__ import annotations

import json
import os
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun.datasets import FileDataset, TabularDataset
from airflow_parallelrun.engine import ownership
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.engine.reuse import Reused, read_result, split_or_reuse
from airflow_parallelrun.engine.steps import StepRun
from airflow_parallelrun.exceptions import OutputExistsError, OutputOwnedError, StorageError
from airflow_parallelrun.models import ModelRegistry

if TYPE_CHECKING:
    from conftest import Job

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.report import JobResult
    from airflow_parallelrun.engine.split import RunRequest

SCRIPT = """
    import pathlib
    def run(mini_batch):
        called(mini_batch)
        if pathlib.Path({folder!r}, "fail").exists():
            raise ValueError("broken picture")
        return [os.path.basename(path) for path in mini_batch]
"""
WRITES = """
    import pathlib
    from azureml_user.parallel_run import EntryScript
    def run(mini_batch):
        called(mini_batch)
        folder = pathlib.Path({folder!r}, "output", "by_kind")
        folder.mkdir(parents=True, exist_ok=True)
        for path in mini_batch:
            (folder / os.path.basename(path)).write_text("written")
        return mini_batch
"""


@dataclass
class Step:
    """A step whose runs may reuse each other's results."""

    job: Job
    runs: int = 0
    told: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def script(self, text: str) -> None:
        folder = self.job.folder
        (folder / "source").mkdir(exist_ok=True)
        (folder / "calls").mkdir(exist_ok=True)
        head = "import os\ndef called(mini_batch):\n    with open({!r}, 'a') as file:\n".format(
            str(folder / "calls" / "all")
        )
        head += "        file.write(''.join(os.path.basename(path) + '\\n' for path in mini_batch))\n"
        text = textwrap.dedent(text).replace("{folder!r}", repr(str(folder)))
        (folder / "source" / "score.py").write_text(head + text)

    def request(self, **changes: Any) -> RunRequest:
        """Ask for another run."""
        self.runs += 1
        given = {"process_count_per_node": 1, "storage_root": "root", **self.values, **changes}
        own = {
            name: given.pop(name)
            for name in ("allow_reuse", "force", "step_run", "models_root", "side_inputs")
            if name in given
        }
        name = f"run-{self.runs}"
        request = self.job.request(**{"output": None, "owner": f"nightly/{name}/predict", **given})
        values = {"step_run": StepRun("nightly", name, "predict"), "allow_reuse": True, **own}
        return replace(request, **values)

    def ask(self, **changes: Any) -> Plan | Reused:
        """Ask for another run, and return what becomes of it."""
        self.told.clear()
        return split_or_reuse(self.request(**changes), self.told.append)

    def run(self, **changes: Any) -> JobResult:
        """Have another run, which nothing stands for."""
        plan = self.ask(**changes)
        assert not isinstance(plan, Reused)
        return self.finish(plan)

    def finish(self, plan: Plan) -> JobResult:
        self.job.plan = plan
        for index in range(plan.node_count):
            Node(plan.run_dir, index).run()
        return reduce(plan.run_dir)

    def reuse(self, **changes: Any) -> Reused:
        """Ask for another run, which an earlier one stands for."""
        calls = self.calls()
        reused = self.ask(**changes)
        assert isinstance(reused, Reused), self.told
        assert (self.calls(), self.told) == (calls, [])
        return reused

    def calls(self) -> int:
        path = self.job.folder / "calls" / "all"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def records(self) -> list[Path]:
        return sorted((self.job.folder / "root" / "reuse" / "nightly" / "predict").glob("*"))


@pytest.fixture
def step(job: Job) -> Step:
    made = Step(job.files(3))
    made.script(SCRIPT)
    return made


# What stands for what.


def test_the_same_again_is_nothing_to_do(step):
    first = step.run()
    assert step.told == ["Nothing is reused: no earlier success of this step is known."]
    reused = step.reuse(node_count=2, run_max_try=7, error_threshold=1, description="once more")
    assert (reused.run, reused.result) == ("run-1", first.to_dict())
    assert reused.result_file == f"{first.output}/job_result.json"
    assert read_result(reused.result_file) == first
    assert not (step.job.folder / "root" / "outputs" / "nightly" / "run-2").exists()
    assert step.reuse().run == "run-1"  # and not the one that reused it


def test_another_setting_is_another_run(step):
    first = step.run()
    change = {"environment_variables": {"A": "1"}, "mini_batch_size": 2}
    second = step.run(**change)
    assert step.told == [
        "Nothing is reused: of the last success, run run-1, it differs in "
        "environment_variables, mini_batch_size."
    ]
    assert second.output != first.output
    assert step.reuse(**change).run == "run-2"
    assert step.reuse().run == "run-1"  # also where the last success was another one


def test_another_script_or_another_file_is_another_run(step):
    step.run()
    script = step.job.folder / "source" / "score.py"
    before = script.read_text()
    script.write_text(before + "# repaired\n")
    assert not isinstance(step.ask(), Reused)
    assert step.told[0].endswith("it differs in code.")
    script.write_text(before)
    (step.job.folder / "input" / "new").write_text("4")
    assert not isinstance(step.ask(), Reused)
    assert step.told[0].endswith("it differs in input.")
    (step.job.folder / "input" / "new").unlink()
    assert step.reuse().run == "run-1"
    os.utime(step.job.folder / "input" / "00000")  # of the same size
    assert not isinstance(step.ask(), Reused)


def test_another_side_input_is_another_run(step):
    labels = step.job.folder / "labels.txt"
    labels.write_text("zero")
    step.values["side_inputs"] = (FileDataset.from_files("labels.txt").as_named_input("labels"),)
    step.run()
    assert step.reuse().run == "run-1"
    labels.write_text("none")
    assert not isinstance(step.ask(), Reused)
    assert step.told[0].endswith("it differs in side_inputs.")
    assert not isinstance(step.ask(side_inputs=()), Reused)


def test_many_differences_are_told_shortly(step):
    step.run()
    step.script(SCRIPT + "# another\n")
    changes = {"append_row_format": "csv", "append_row_order": "any", "strict_returns": True}
    step.ask(**changes, mini_batch_size=2, arguments=("--a", "1"), environment_variables={"A": "1"})
    assert step.told[0].endswith(
        "append_row_file_name, append_row_format, append_row_order, arguments, code and 3 more."
    )


def test_another_step_has_successes_of_its_own(step):
    step.run()
    assert not isinstance(step.ask(step_run=StepRun("nightly", "run-2", "other")), Reused)
    assert step.told == ["Nothing is reused: no earlier success of this step is known."]


def test_no_value_of_a_variable_is_kept(step):
    step.run(environment_variables={"API_KEY": "xyzzy"})
    assert len(step.records) == 2
    assert not any("xyzzy" in path.read_text() for path in step.records)


def test_a_table_is_known_by_its_files(step):
    path = step.job.folder / "table.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    step.script("def run(frame): return [str(row) for row in frame.values.tolist()]\n")
    step.values["inputs"] = (TabularDataset.from_delimited_files("table.csv").as_named_input("rows"),)
    step.values["mini_batch_size"] = "1KB"
    step.run()
    assert step.reuse().run == "run-1"
    path.write_text("a,b\n1,2\n3,5\n")
    assert not isinstance(step.ask(), Reused)


# What nothing can stand for.


def test_whether_to_reuse_can_be_said(step):
    step.run(allow_reuse=False)
    assert (step.told, step.records) == ([], [])
    step.run()
    step.run(force=True)
    assert step.told == ["Nothing is reused: force is set."]
    assert step.reuse().run == "run-3"  # what was forced is the latest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"storage_root": None, "output": "output"}, "kept in the storage root, and there is none"),
        ({"output_action": "summary_only"}, "without an output folder nobody finds again"),
        ({"step_run": None, "output": "output"}, "kept in the storage root, and there is none"),
    ],
)
def test_some_runs_leave_nothing_that_could_be_found(step, change, told):
    step.run(**change)
    assert step.told[0].endswith(f"{told}.")
    assert step.records == []


def test_a_query_is_always_asked_again(step):
    import sqlite3

    with sqlite3.connect(step.job.folder / "rows.db") as database:
        database.execute("create table t (k integer primary key)")
        database.execute("insert into t values (1), (2)")
    database.close()
    url = f"sqlite:///{step.job.folder / 'rows.db'}"
    os.environ["PARALLELRUN_CONNECTION_ROWS"] = url
    try:
        query = TabularDataset.from_sql_query("select k from t", connection="rows", key="k")
        step.ask(inputs=(query.as_named_input("rows"),), mini_batch_size="1KB")
    finally:
        del os.environ["PARALLELRUN_CONNECTION_ROWS"]
    assert step.told == ["Nothing is reused: whether what a query reads has changed nobody knows."]


def test_an_input_without_times_and_tags_is_always_read_again(step, monkeypatch):
    listed = "airflow_parallelrun.engine.mini_batches.list_files"
    from airflow_parallelrun.datasets import list_files

    monkeypatch.setattr(listed, lambda paths: (file._replace(mtime_ns=None) for file in list_files(paths)))
    step.ask()
    assert "neither when a file was changed nor a tag of its content" in step.told[0]


def test_a_run_that_was_cleared_is_run_again(step):
    first = step.run()
    again = replace(
        step.request(), owner="nightly/run-1/predict", step_run=StepRun("nightly", "run-1", "predict")
    )
    plan = split_or_reuse(again, step.told.append)
    assert "this run itself has come to it before, and was cleared" in step.told[-1]
    assert step.finish(plan).output == first.output
    assert step.reuse().run == "run-1"


# What has not gone well in every respect.


def fail(step: Step, failing: bool = True) -> None:
    flag = step.job.folder / "fail"
    flag.touch() if failing else flag.unlink()


def test_what_failed_may_go_well_the_next_time(step):
    step.job.files(4)
    step.script(SCRIPT.replace(".exists()", '.exists() and mini_batch[0].endswith("2")'))
    fail(step)
    assert step.run(error_threshold=1).verdict == "succeeded with errors"
    assert [path.name for path in step.records] == ["latest.json"]
    plan = step.ask(error_threshold=1)
    assert step.told[0] == (
        "Nothing is reused: run run-1 was the same, but 1 items failed in it, which may not happen again. To "
        "run only these, redrive it."
    )
    fail(step, False)
    assert step.finish(plan).verdict == "succeeded"
    assert step.reuse().run == "run-2"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_redriven_run_stands_for_others_unless_it_was_redriven_otherwise(step, fresh):
    step.script(SCRIPT.replace(".exists()", '.exists() and mini_batch[0].endswith("2")'))
    fail(step)
    request = step.request(error_threshold=1)
    plan = split_or_reuse(request, step.told.append)
    step.finish(plan)
    fail(step, False)
    arguments = ("--threshold", "0.5") if fresh else ()
    asked = RedriveRequest("nightly/run-9/predict", request.config, arguments, None)
    step.finish(redrive(plan.run_dir, asked).plan)
    assert step.job.plan.output == plan.output
    if fresh:
        assert not isinstance(step.ask(error_threshold=1), Reused)
    else:
        assert step.reuse(error_threshold=1).run == "run-1"


def test_a_failure_leaves_nothing(step):
    fail(step)
    with pytest.raises(Exception, match="broken picture"):
        step.run()
    assert step.records == []


def _remove_rows(output: Path) -> None:
    (output / "parallel_run_step.txt").unlink()


def _remove_result(output: Path) -> None:
    (output / "job_result.json").unlink()


def _change_rows(output: Path) -> None:
    with (output / "parallel_run_step.txt").open("a") as file:
        file.write("more\n")


def _change_result(output: Path) -> None:
    os.utime(output / "job_result.json", (1, 1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_remove_rows, "is gone"),
        (_remove_result, "is gone"),
        (_change_rows, "is not as it was published"),
        (_change_result, "is not as it was published"),
    ],
)
def test_an_output_has_to_be_there_as_it_was(step, change, told):
    first = step.run()
    change(Path(first.output))
    step.ask()
    assert step.told == [
        f"Nothing is reused: run run-1 was the same, but its output in {first.output!r} {told}."
    ]


def test_a_reduce_that_is_repeated_leaves_the_record_of_what_it_has_published(step):
    step.run()
    reduce(step.job.plan.run_dir)
    assert step.reuse().run == "run-1"


def test_a_record_of_another_version_is_none(step):
    step.run()
    for path in step.records:
        path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert not isinstance(step.ask(), Reused)
    assert step.told == ["Nothing is reused: no earlier success of this step is known."]


def test_a_record_that_cannot_be_written_fails_no_run(step, caplog):
    (step.job.folder / "root").mkdir()
    (step.job.folder / "root" / "reuse").write_text("a file in the way")
    plan = step.ask(allow_reuse=False)
    plan = replace(
        plan, successes=str(step.job.folder / "root/reuse/nightly/predict"), fingerprint={"input": ""}
    )
    plan.store.put("plan.json", plan.to_json())
    assert step.finish(plan).verdict == "succeeded"
    assert "later runs will not reuse this one: " in caplog.text


# Models.


def test_a_newer_model_is_another_run_where_the_script_asks_for_the_latest(step):
    root = step.job.folder / "models"
    (step.job.folder / "weights").write_text("w")
    registry = ModelRegistry(root)
    registry.register(step.job.folder / "weights", "net")
    step.script(
        "from azureml.core import Model\ndef init(): Model.get_model_path('net')\n" + textwrap.dedent(SCRIPT)
    )
    step.values["models_root"] = str(root)
    step.run()
    registry.register(step.job.folder / "weights", "another")
    assert step.reuse().run == "run-1"
    registry.register(step.job.folder / "weights", "net")
    step.run()
    assert step.told == ["Nothing is reused: run run-1 was the same, but with version 1 of model net."]
    assert step.reuse().run == "run-3"


# Another output folder.


def test_the_output_is_where_it_was_asked_for(step):
    first = step.run()
    reused = step.reuse(output="asked/for")
    folder = step.job.folder / "asked" / "for"
    rows = folder / "parallel_run_step.txt"
    assert rows.read_text() == Path(first.output_file).read_text() == "00000\n00001\n00002\n"
    assert rows.stat().st_ino != Path(first.output_file).stat().st_ino
    result = json.loads((folder / "job_result.json").read_text())
    assert result == reused.result
    paths = {"output": str(folder), "output_file": str(rows)}
    assert result == {**first.to_dict(), **paths, "reused_from": "run-1"}
    assert read_result(reused.result_file) == replace(first, **paths)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".parallelrun",
        "job_result.json",
        "parallel_run_step.txt",
    ]
    # It is this run's: another one is refused, and this one, tried again, is not.
    with pytest.raises(OutputOwnedError, match=r"nightly/run-2/predict"):
        step.ask(output="asked/for")
    assert step.reuse(output="asked/for", owner="nightly/run-2/predict").run == "run-1"


def test_the_earlier_folder_itself_may_be_asked_for(step):
    first = step.run(output="output")
    assert step.reuse(output="output").result == first.to_dict()


def test_nothing_is_replaced_that_somebody_else_has_put_there(step):
    step.run()
    (step.job.folder / "asked").mkdir()
    (step.job.folder / "asked" / "parallel_run_step.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        step.ask(output="asked")
    assert (step.job.folder / "asked" / "parallel_run_step.txt").read_text() == "mine"
    assert not (step.job.folder / "asked" / "job_result.json").exists()


def test_half_a_copy_is_no_result(step, monkeypatch):
    step.run()

    class PulledError(BaseException):
        pass

    def pull(output: str, name: str, written: str) -> None:
        raise PulledError

    with monkeypatch.context() as patched:
        patched.setattr(ownership, "publish", pull)
        with pytest.raises(PulledError):
            step.ask(output="asked")
    folder = step.job.folder / "asked"
    assert [path.name for path in folder.iterdir()] == [".parallelrun"]
    assert step.reuse(output="asked", owner=f"nightly/run-{step.runs}/predict").run == "run-1"
    assert (folder / "parallel_run_step.txt").read_text() == "00000\n00001\n00002\n"


@pytest.mark.parametrize("change", [_change_rows, _remove_rows, _change_result])
def test_an_output_that_changes_while_it_is_copied_is_not_passed_on(step, monkeypatch, change):
    first = step.run()
    take = ownership.take

    def change_meanwhile(*given: Any) -> None:
        change(Path(first.output))
        take(*given)

    monkeypatch.setattr(ownership, "take", change_meanwhile)
    with pytest.raises(StorageError, match=r"has changed while it was copied|has \d+ bytes, and had|is gone"):
        step.ask(output="asked")
    assert not (step.job.folder / "asked" / "job_result.json").exists()


def test_of_summary_only_all_that_the_script_has_written_is_copied(step):
    step.script(WRITES)
    step.run(output_action="summary_only", output="output")
    assert (step.job.folder / "output" / "logs").is_dir()
    reused = step.reuse(output_action="summary_only", output="asked")
    folder = step.job.folder / "asked"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {path for path in found if not path.startswith(".parallelrun/")} == {
        *(f"by_kind/0000{number}" for number in range(3)),
        "job_result.json",
    }
    assert (folder / "by_kind" / "00001").read_text() == "written"
    assert reused.result["output_file"] is None
    (step.job.folder / "output" / "by_kind" / "more").touch()
    assert not isinstance(step.ask(output_action="summary_only", output="other"), Reused)


def test_where_the_kernel_cannot_copy_it_is_read_and_written(step, monkeypatch):
    step.run()

    def refuse(*_: Any) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    step.reuse(output="asked")
    assert (step.job.folder / "asked" / "parallel_run_step.txt").read_text() == "00000\n00001\n00002\n"


# In an object store.


def test_all_of_it_in_an_object_store(step, object_store):
    object_store.write("in/a", b"1")
    object_store.write("in/b", b"2")
    root = f"{object_store.url}/root"
    step.values |= {
        "storage_root": root,
        "inputs": (FileDataset.from_files(f"{object_store.url}/in").as_direct(),),
    }
    first = step.run()
    assert first.output == f"{root}/outputs/nightly/run-1/predict"
    assert step.reuse().result == first.to_dict()
    copied = step.reuse(output=f"{object_store.url}/asked")
    assert copied.result["output_file"] == f"{object_store.url}/asked/parallel_run_step.txt"
    assert object_store.read("asked/parallel_run_step.txt") == b"a\nb\n"
    assert read_result(copied.result_file).output == f"{object_store.url}/asked"
    with pytest.raises(OutputOwnedError):
        step.ask(output=f"{object_store.url}/asked")
    step.reuse(output="here")
    assert (step.job.folder / "here" / "parallel_run_step.txt").read_text() == "a\nb\n"
    object_store.write("root/outputs/nightly/run-1/predict/parallel_run_step.txt", b"x\ny\n")
    assert not isinstance(step.ask(), Reused)
    assert step.told[0].endswith("is not as it was published.")


def test_a_large_object_is_copied_by_its_store(step, copying_store, monkeypatch):
    from airflow_parallelrun.engine.object_writer import PART_BYTES, ObjectWriter

    copies: list[int] = []
    copy = ObjectWriter.copy

    def counting(self: ObjectWriter, source: str, offset: int, length: int) -> None:
        copies.append(length)
        copy(self, source, offset, length)

    monkeypatch.setattr(ObjectWriter, "copy", counting)
    step.script(f"def run(mini_batch): return ['x' * {PART_BYTES // 2} for _ in mini_batch]\n")
    first = step.run(output=f"{copying_store.url}/first")
    copies.clear()
    step.reuse(output=f"{copying_store.url}/asked")
    data = copying_store.read("asked/parallel_run_step.txt")
    assert copies == [len(data)]
    assert first.counts.rows == 3
    assert data == copying_store.read("first/parallel_run_step.txt")
