# SPDX-License-Identifier: Apache-2.0
"""profiling_module in whole runs, with real processes."""

from __future__ import annotations

import pstats

import pytest

from airflow_parallelrun.exceptions import EntryScriptContractError

SCRIPT = """
    def init(): return helper(0)
    def run(mini_batch): return [helper(path) for path in mini_batch]
    def shutdown(): helper(1)
    def helper(value): return value
"""


@pytest.mark.parametrize("module", ["cProfile", "profile"])
def test_each_process_leaves_a_profile_of_the_scripts_functions(job, module):
    job.files(8).split(SCRIPT, profiling_module=module, process_count_per_node=1).run()
    (path,) = (job.output / "logs/sys/node/0-1").iterdir()
    assert path.name == "process000.profile"
    counts = {name: value[1] for (_, _, name), value in pstats.Stats(str(path)).stats.items()}
    assert {name: counts[name] for name in ("init", "run", "helper", "shutdown")} == {
        "init": 1, "run": 8, "helper": 10, "shutdown": 1,
    }  # fmt: skip
    assert len(job.rows()) == 8


def test_an_error_of_the_script_is_the_same_with_a_profiler(job):
    script = "def run(mini_batch): raise KeyError('no such thing')\n"
    job.files(1).split(
        script, profiling_module="cProfile", run_max_try=1, error_threshold=1, output_action="summary_only"
    )
    job.run()
    (line,) = job.failed_items()
    assert line["error"]["type"] == "KeyError"
    assert line["error"]["frame"].startswith("score.py, line")


def test_an_interpreter_without_the_module_ends_the_node_with_that(job, echo):
    (job.folder / "source").mkdir()
    (job.folder / "source" / "profile.py").write_text("raise ImportError('left out by the distribution')")
    job.files(1).split(echo, profiling_module="profile")
    with pytest.raises(
        EntryScriptContractError, match=r"profiling_module is profile, which .* left out by the"
    ):
        job.node()
