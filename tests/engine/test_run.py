# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the engine: what is in the output, and what is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_parallelrun.config import Environment
from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine import budget, committer, dispatcher
from airflow_parallelrun.engine.committer import Committer
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.exceptions import (
    EntryScriptContractError,
    EntryScriptInitError,
    NothingToAppendError,
    OutputExistsError,
    OutputOwnedError,
    ThresholdExceededError,
    UnprocessedError,
)
from airflow_parallelrun.models import ModelRegistry


def test_rows_come_out_once_in_the_order_of_the_plan(job, echo):
    result = job.files(57).split(echo, mini_batch_size=5).run()
    assert job.rows() == job.names(57)
    assert result.verdict == "succeeded"
    assert result.counts.mini_batches == result.counts.succeeded == 12
    assert result.counts.items == result.counts.items_succeeded == result.counts.rows == 57
    assert job.result() == json.loads(json.dumps(result.to_dict()))
    assert set(job.calls().values()) == {1}
    assert not (job.output / "failed_items.jsonl").exists()


def test_nodes_share_the_work_and_a_late_one_finds_nothing(job, echo):
    job.files(40).split(echo, node_count=3)
    assert job.plan.node_count == 3
    job.run()
    assert job.rows() == job.names(40)
    assert set(job.calls().values()) == {1}


def test_no_more_nodes_than_mini_batches(job, echo):
    assert job.files(2).split(echo, node_count=5).plan.node_count == 2


def test_inputs_are_split_each_on_its_own_in_order(job, echo):
    job.files(3)
    (job.folder / "other").mkdir()
    (job.folder / "other" / "x").write_text("x")
    inputs = tuple(FileDataset.from_files(name).as_mount() for name in ("other", "input", "other"))
    result = job.split(echo, mini_batch_size=2, inputs=inputs).run()
    assert job.rows() == ["x", "00000", "00001", "00002", "x"]
    assert result.counts.mini_batches == 4


def test_init_runs_once_in_each_process_and_shutdown_at_the_end(job):
    script = """
        import time
        marks = []
        def init(): marks.append("init"); print("in init")
        def run(mini_batch):
            time.sleep(0.1)
            return [f"{len(marks)} {os.getpid()}" for _ in mini_batch]
        def shutdown(): print("in shutdown")
    """
    job.files(30).split(script).run()
    assert {row.split()[0] for row in job.rows()} == {"1"}
    processes = {row.split()[1] for row in job.rows()}
    logs = [path.read_text() for path in (job.output / "logs/user/stdout/0-1").iterdir()]
    assert len(processes) <= len(logs) == 2
    assert all(log.count("in init") == log.count("in shutdown") == 1 for log in logs)


def test_script_sees_its_arguments_both_folders_and_its_siblings(job):
    source = job.folder / "source"
    (source / "scoring").mkdir(parents=True)
    (source / "at_root.py").write_text("ROOT = 'root'")
    (source / "scoring" / "beside.py").write_text("BESIDE = 'beside'")
    (source / "scoring" / "score.py").write_text(
        "import os, sys, at_root, beside\n"
        "def run(batch):\n"
        "    here = os.path.dirname(os.path.abspath(__file__))\n"
        "    beside_it = 'beside.py' in os.listdir(here)\n"
        "    return [f'{sys.argv[1:]} {at_root.ROOT} {beside.BESIDE} {beside_it}' for _ in batch]\n"
    )
    job.files(1)
    job.plan = split(job.request(entry_script="scoring/score.py", arguments=("--model", "m")))
    job.run()
    assert job.rows() == ["['--model', 'm'] root beside True"]


def test_second_parameter_gets_the_context(job):
    script = """
        def run(mini_batch, context):
            return [f"{context.minibatch_index} {context.partition_key_value}" for _ in mini_batch]
    """
    job.files(3).split(script).run()
    assert job.rows() == ["0 {}", "1 {}", "2 {}"]


def test_summary_only_writes_no_file_and_counts_all_the_same(job):
    job.files(3).split("def run(batch): return batch[:-1]\n", output_action="summary_only", error_threshold=3)
    result = job.run()
    assert result.output_file is None
    assert not (job.output / "parallel_run_step.txt").exists()
    assert (result.counts.short, result.counts.items_failed) == (3, 3)


def test_summary_only_without_an_output_needs_a_place_for_the_run_directory(job, echo):
    with pytest.raises(ValueError, match="storage_root"):
        job.files(1).split(echo, output_action="summary_only", output=None)
    job.split(echo, output_action="summary_only", output=None, storage_root=str(job.folder / "runs"))
    assert job.run().counts.succeeded == 1


COUNTING = [
    # what run() returns for five items, items that succeeded, rows, status
    ("mini_batch", 5, 5, "succeeded"),
    ("mini_batch[:4]", 4, 4, "short"),
    ("mini_batch + ['more']", 5, 6, "succeeded"),
    ("tuple(mini_batch)", 5, 5, "succeeded"),
    ("[]", 0, 0, "short"),
]


@pytest.mark.parametrize(("expression", "items_ok", "rows", "status"), COUNTING)
def test_counting(job, expression, items_ok, rows, status):
    # The first mini-batch always succeeds, so that there is something to append.
    script = f"def run(mini_batch): return mini_batch if mini_batch[0].endswith('0') else {expression}\n"
    result = job.files(10).split(script, mini_batch_size=5, error_threshold=-1).run()
    assert result.counts.items_succeeded == 5 + items_ok
    assert result.counts.items_failed == 5 - items_ok
    assert result.counts.rows == len(job.rows()) == 5 + rows
    assert getattr(result.counts, status) >= 1
    assert result.verdict == ("succeeded" if items_ok == 5 else "succeeded with errors")


def test_short_return_is_told_with_its_candidates(job):
    job.files(5).split("def run(batch): return batch[1:]\n", mini_batch_size=5, error_threshold=1).run()
    (line,) = job.failed_items()
    assert line["missing"] == 1
    assert len(line["items"]) == 5
    assert "4 elements for 5 items" in line["error"]["message"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("None", "run() returned None"),
        ("len(mini_batch)", "run() returned builtins.int"),
        ("'text'", "run() returned builtins.str"),
    ],
)
def test_unusable_return_value_is_an_error_of_the_mini_batch(job, expression, message):
    job.files(2).split(f"def run(mini_batch): return {expression}\n", run_max_try=1)
    with pytest.raises(ThresholdExceededError) as caught:
        job.run()
    assert message in str(caught.value)


def test_raising_once_then_succeeding_is_a_success(job):
    script = """
        def run(mini_batch):
            mark = mini_batch[0] + ".seen"
            mark = mark.replace("input", "calls/..")
            if not os.path.exists(mark):
                open(mark, "w").close()
                raise ValueError("not yet")
            return mini_batch
    """
    result = job.files(4).split(script).run()
    assert result.verdict == "succeeded"
    assert len(job.rows()) == 4


FAILING = """
    def run(mini_batch):
        called(mini_batch)
        if os.path.basename(mini_batch[0]) in ("00001", "00003"):
            raise KeyError("no such thing in " + mini_batch[0])
        return [os.path.basename(path) for path in mini_batch]
"""


def test_failures_below_the_threshold_are_tolerated_and_named(job):
    result = job.files(6).split(FAILING, error_threshold=2, run_max_try=2).run()
    assert result.verdict == "succeeded with errors"
    assert job.rows() == job.names(6, without={1, 3})
    assert [Path(line["item"]).name for line in job.failed_items()] == ["00001", "00003"]
    assert {line["tries"] for line in job.failed_items()} == {2}
    assert job.calls()["00001"] == 2
    (group,) = result.error_groups
    assert (group.mini_batches, group.items) == (2, 2)
    assert "KeyError" in group.error
    assert "score.py, line" in group.error
    assert "no such thing" in Path(group.log).read_text()


def test_failures_above_the_threshold_fail_the_job_with_the_users_exception(job):
    job.files(6).split(FAILING, error_threshold=1, run_max_try=1)
    with pytest.raises(ThresholdExceededError) as caught:
        job.run()
    message = str(caught.value)
    assert "2 items failed, error_threshold is 1" in message
    assert "KeyError" in message
    assert "raise KeyError" in message
    assert str(job.output / "logs") in message
    assert job.result()["verdict"] == "failed"
    assert not (job.output / "parallel_run_step.txt").exists()


@pytest.mark.parametrize(
    ("limits", "breach"),
    [
        ({"allowed_failed_count": 1}, "2 mini-batches failed, allowed_failed_count is 1"),
        ({"allowed_failed_percent": 33}, "33.3 % of the mini-batches failed, allowed_failed_percent is 33"),
    ],
)
def test_thresholds_in_mini_batches(job, limits, breach):
    job.files(6).split(FAILING, error_threshold=-1, run_max_try=1, **limits)
    with pytest.raises(ThresholdExceededError, match=breach):
        job.run()


def test_nothing_to_append_is_a_failure_that_says_why(job):
    job.files(2).split("def run(mini_batch): return []\n", error_threshold=-1)
    with pytest.raises(NothingToAppendError, match="empty list or frame for all 2 mini-batches"):
        job.run()
    job.split("def run(mini_batch): raise OSError('disk on fire')\n", error_threshold=-1, run_max_try=1)
    with pytest.raises(NothingToAppendError, match="disk on fire"):
        job.run()


def test_run_that_sleeps_past_its_timeout_is_killed_and_named(job):
    script = """
        import time
        def run(mini_batch):
            if mini_batch[0].endswith("2"):
                time.sleep(600)
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(5).split(script, run_invocation_timeout=1, run_max_try=1, error_threshold=1).run()
    assert job.rows() == job.names(5, without={2})
    (line,) = job.failed_items()
    assert line["error"]["type"] == "RunInvocationTimeout"
    assert "run() took longer than 1 s" in line["error"]["message"]


def test_exception_in_init(job):
    job.files(4).split("def init(): raise RuntimeError('no weights')\ndef run(batch): return batch\n")
    with pytest.raises(EntryScriptInitError) as caught:
        job.node()
    assert "RuntimeError: no weights (score.py, line" in str(caught.value)
    assert "no weights" in Path(caught.value.log).read_text()
    assert "in init\n" in str(caught.value)
    assert "raise RuntimeError" not in caught.value.last
    assert caught.value.failures >= 6


def test_init_that_fails_on_all_nodes_aborts_the_job(job, monkeypatch):
    monkeypatch.setattr(budget, "JOB_INIT_AGE_S", 0.0)
    job.files(4).split(
        "def init(): raise RuntimeError('no weights')\ndef run(batch): return batch\n", node_count=2
    )
    job.plan.store.put("control/0/1-1-0-0-0-6", b"")  # another node; this one alone gives up after 6, too
    ended = job.node()
    assert ended.outcome == "aborted"
    with pytest.raises(UnprocessedError, match="processes on all nodes died in init") as caught:
        job.reduce()
    assert "the last one: RuntimeError: no weights (score.py, line" in str(caught.value)


def test_init_that_fails_on_other_nodes_alone_changes_nothing(job, echo, monkeypatch):
    monkeypatch.setattr(budget, "JOB_INIT_AGE_S", 0.0)
    job.files(4).split(echo, node_count=2)
    job.plan.store.put("control/0/1-1-0-0-0-99", b"")
    assert job.node().outcome == "finished"
    assert job.reduce().verdict == "succeeded"


def test_exit_in_init(job):
    job.files(4).split("def init(): os._exit(3)\ndef run(batch): return batch\n")
    with pytest.raises(EntryScriptInitError, match="exited with status 3"):
        job.node()


def test_sys_exit_in_init_is_named(job):
    job.files(4).split("import sys\ndef init(): sys.exit('no licence')\ndef run(batch): return batch\n")
    with pytest.raises(EntryScriptInitError, match="SystemExit: no licence"):
        job.node()


def test_hang_in_init(job):
    script = "import time\ndef init(): time.sleep(600)\ndef run(batch): return batch\n"
    job.files(4).split(script, init_timeout=1, process_count_per_node=1)
    with pytest.raises(EntryScriptInitError, match="took longer than 1 s"):
        job.node()


def test_script_without_run(job):
    job.files(4).split("def init(): pass\n")
    with pytest.raises(EntryScriptContractError, match=r"no function run\(mini_batch\)"):
        job.node()


@pytest.mark.parametrize(
    ("signature", "message"),
    [("()", "takes no argument"), ("(a, b, c)", "requires 3 arguments")],
)
def test_run_with_unusable_parameters(job, signature, message):
    job.files(1).split(f"def run{signature}: return []\n")
    with pytest.raises(EntryScriptContractError, match=message):
        job.node()


def test_output_of_another_run_is_refused(job, echo):
    job.files(1).split(echo).run()
    with pytest.raises(OutputOwnedError, match="belongs to another run \\(test/1\\)"):
        job.split(echo, owner="test/2")
    assert job.rows() == ["00000"]


def test_the_same_run_may_split_again_and_replace_its_output(job, echo):
    job.files(1).split(echo).run()
    first = job.plan.run_dir
    job.files(2).split(echo).run()
    assert job.plan.run_dir != first
    assert job.rows() == ["00000", "00001"]


@pytest.mark.parametrize("name", ["parallel_run_step.txt", "job_result.json", "failed_items.jsonl"])
def test_foreign_file_in_the_output_is_never_touched(job, echo, name):
    job.output.mkdir()
    (job.output / name).write_text("mine")
    with pytest.raises(OutputExistsError, match=name):
        job.files(1).split(echo)
    assert sorted(path.name for path in job.output.iterdir()) == [name]
    (job.output / name).unlink()
    job.split(echo)
    job.node()
    (job.output / name).write_text("mine")
    with pytest.raises(OutputExistsError, match=name):
        job.reduce()
    assert (job.output / name).read_text() == "mine"


def test_output_inside_the_input_is_refused_before_anything_is_written(job, echo):
    with pytest.raises(ValueError, match="output must be outside the input folder"):
        job.files(1).split(echo, output="input/output")
    assert [path.name for path in (job.folder / "input").iterdir()] == ["00000"]


def test_reduce_can_be_repeated(job, echo):
    job.files(3).split(echo).node()
    first = job.reduce()
    second = job.reduce()
    assert first.counts == second.counts
    assert first.round == second.round == 0
    assert job.rows() == job.names(3)
    left = [path.name for path in job.output.iterdir()]
    assert sorted(left) == [".parallelrun", "job_result.json", "logs", "parallel_run_step.txt"]


def test_changed_and_vanished_inputs_are_failed_items_with_that_cause(job, echo):
    job.files(6).split(echo, mini_batch_size=2, error_threshold=4)
    (job.folder / "input" / "00000").unlink()
    (job.folder / "input" / "00003").write_text("something longer")
    (job.folder / "input" / "00004").unlink()
    (job.folder / "input" / "00005").unlink()
    counts = job.run().counts
    assert job.rows() == ["00001", "00002"]
    assert (counts.short, counts.failed, counts.items_failed) == (2, 1, 4)
    assert job.calls() == {"00001": 1, "00002": 1}
    causes = [line["error"]["message"] for line in job.failed_items()]
    assert "00000 was listed and cannot be read" in causes[0]
    assert "00003 has changed since it was listed" in causes[1]


def test_changed_input_leaves_the_rest_of_its_mini_batch(job, echo):
    job.files(4).split(echo, mini_batch_size=2, error_threshold=1)
    (job.folder / "input" / "00001").unlink()
    job.run()
    assert job.rows() == job.names(4, without={1})
    (line,) = job.failed_items()
    assert line["error"]["type"] == "InputChangedError"
    assert "00001" in line["error"]["message"]
    assert line["tries"] == 1


def test_worker_gets_nothing_of_the_nodes_environment_or_descriptors(job, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    script = """
        import json
        def run(mini_batch):
            with os.scandir("/proc/self/fd") as entries:
                targets = [os.readlink(entry.path) for entry in entries]
            return [json.dumps([sorted(os.environ), targets])]
    """
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        job.files(1).split(script, environment_variables={"MINE": "1"}).run()
    finally:
        os.close(read)
        os.close(write)
    names, descriptors = json.loads(job.rows()[0])
    assert "MINE" in names
    assert "AZUREML_BI_OUTPUT_PATH" in names
    assert not [name for name in names if "AIRFLOW" in name or "SECRET" in name]
    assert not [target for target in descriptors if "pipe" in target]
    assert len([target for target in descriptors if "socket" in target]) == 1


def test_another_interpreter_runs_the_script(job, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    script = """
        import sys
        def run(mini_batch):
            try:
                import airflow_parallelrun
            except ImportError:
                return [sys.prefix for _ in mini_batch]
    """
    python = str(bare / "bin" / "python")
    job.files(1).split(script, environment=Environment(python=python)).run()
    assert job.rows() == [str(bare)]


def test_model_paths_are_asked_of_the_node(job, tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_text("w")
    ModelRegistry(str(tmp_path / "models")).register(str(weights), "net")
    script = """
        from azureml.core import Model
        from azureml.core.model import Model as Same
        from azureml_user.parallel_run import EntryScript
        def init():
            global path
            path = Model.get_model_path("net")
            assert Same.get_model_path(model_name="net", version=1) == path
            assert EntryScript() is EntryScript()
            EntryScript().logger.info("the logger of %s", EntryScript().agent_name)
        def run(mini_batch):
            return [f"{open(path).read()} {EntryScript().output_dir}" for _ in mini_batch]
    """
    job.files(1).split(script)
    job.plan = split(replace(job.request(), models_root=str(tmp_path / "models")))
    job.run()
    assert job.rows() == [f"w {job.output}"]
    log = job.output / "logs/user/entry_script_log/0-1/process000.log.txt"
    assert "the logger of process000" in log.read_text()


def test_unknown_model_names_what_to_do(job):
    script = "from azureml.core import Model\ndef init(): Model.get_model_path('net')\ndef run(b): return b\n"
    job.files(1).split(script)
    with pytest.raises(EntryScriptInitError, match="no model registry is configured"):
        job.node()


def test_data_frames_are_written_as_the_original_writes_them(job):
    script = """
        import pandas as pd
        def run(mini_batch):
            return pd.DataFrame({"a": [5.1, None], "b": ["x y", 'q"u'], "c": [True, False]})
    """
    job.files(1).split(script, mini_batch_size=2).run()
    assert (job.output / "parallel_run_step.txt").read_bytes() == b'5.1 "x y" True\n "q""u" False\n'


def test_settings_file_changes_how_frames_are_written(job):
    script = "import pandas as pd\ndef run(batch): return pd.DataFrame({'a': [1], 'b': [2]})\n"
    (job.folder / "source").mkdir()
    (job.folder / "source" / "parallel_run_step.settings.json").write_text(
        '{"append_row": {"pandas.DataFrame.to_csv": {"sep": ",", "index": true}}}'
    )
    job.files(1).split(script).run()
    assert job.rows() == ["0,1,2"]


def test_elements_are_written_as_text_nothing_escaped(job):
    script = "def run(batch): return ['a b', 1, None, ['x', 0], 'é']\n"
    job.files(1).split(script).run()
    assert (job.output / "parallel_run_step.txt").read_bytes() == "a b\n1\nNone\n['x', 0]\né\n".encode()


def test_a_slow_disk_holds_up_the_work_and_not_the_memory(job, echo, monkeypatch):
    monkeypatch.setattr(committer, "BACKLOG", 10)
    monkeypatch.setattr(dispatcher, "WINDOW", 100)
    fdatasync, most = os.fdatasync, []

    def slow(fd):
        time.sleep(0.2)
        fdatasync(fd)

    add = Committer.add

    def watched(self, finished, hurry=False):
        add(self, finished, hurry)
        most.append(self._mini_batches_pending)

    monkeypatch.setattr(committer.os, "fdatasync", slow)
    monkeypatch.setattr(Committer, "add", watched)
    job.files(2000).split(echo, run_invocation_timeout=5).run()
    assert job.rows() == job.names(2000)
    # Two processes have up to 100 each when nothing more is handed out.
    assert 20 < max(most) <= 20 + 2 * 100 + 10


def test_more_elements_than_items_are_told_once_and_written(job):
    script = "def run(batch): return [1, 2, 3]\n"
    job.files(4).split(script, process_count_per_node=1).run()
    assert len(job.rows()) == 12
    (log,) = (job.output / "logs/user/stdout").rglob("*.txt")
    told = [line for line in log.read_text().splitlines() if "elements for" in line]
    assert len(told) == 1
    assert "run() returned 3 elements for the 1 items of mini-batch 0. All are written" in told[0]
