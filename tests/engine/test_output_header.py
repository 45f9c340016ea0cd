# SPDX-License-Identifier: Apache-2.0
"""append_row_dataframe_header in whole runs: the names of the columns stand once, at the top."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.questions import answer
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.engine.store import Store
from airflow_parallelrun.exceptions import NothingToAppendError, StorageError, ThresholdExceededError

FRAMES = """
    import pandas as pd
    def run(mini_batch):
        called(mini_batch)
        return pd.DataFrame({"name": [os.path.basename(path) for path in mini_batch], "x y": 1})
"""


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_names_stand_once_at_the_top(job, nodes):
    result = job.files(40).split(FRAMES, append_row_dataframe_header=True, node_count=nodes).run()
    assert job.rows() == ['name "x y"', *(f"{name} 1" for name in job.names(40))]
    assert result.counts.rows == 40
    assert job.plan.store.read(names.HEADER) == b'name "x y"\n'


def test_without_the_option_there_are_none(job):
    job.files(2).split(FRAMES).run()
    assert job.rows() == [f"{name} 1" for name in job.names(2)]
    assert not job.plan.store.exists(names.HEADER)


def test_lists_stand_below_as_they_are_and_alone_they_have_no_header(job, echo):
    mixed = FRAMES.replace("return", 'if mini_batch[0].endswith("1"): return ["a list"]\n        return')
    job.files(3).split(mixed, append_row_dataframe_header=True).run()
    assert job.rows() == ['name "x y"', "00000 1", "a list", "00002 1"]
    job.split(echo, append_row_dataframe_header=True).run()
    assert job.rows() == job.names(3)


def test_names_alone_are_no_row(job):
    script = "import pandas as pd\ndef run(mini_batch): return pd.DataFrame({'a': []})\n"
    job.files(2).split(script, append_row_dataframe_header=True, error_threshold=-1)
    with pytest.raises(NothingToAppendError):
        job.run()
    assert not (job.output / "parallel_run_step.txt").exists()


ODD = """
    import pandas as pd, time
    def run(mini_batch):
        if mini_batch[0].endswith("3"):
            time.sleep(0.3)
            return pd.DataFrame({"odd": [1] * len(mini_batch)})
        return pd.DataFrame({"name": [os.path.basename(path) for path in mini_batch]})
"""


def test_a_frame_with_other_columns_is_a_failed_mini_batch(job):
    job.files(6).split(ODD, append_row_dataframe_header=True, error_threshold=1, run_max_try=2).run()
    assert job.rows() == ["name", *job.names(6, without={3})]
    (line,) = job.failed_items()
    assert (line["mini_batch"], line["tries"], line["error"]["type"]) == (3, 2, "ReturnValueError")
    assert "the header 'odd'; the first one of this run had 'name'" in line["error"]["message"]


def test_the_header_of_a_round_holds_in_the_next(job):
    script = """
        import pandas as pd
        def run(mini_batch):
            if mini_batch[0].endswith("1") and not os.path.exists({mark!r}):
                raise ValueError("not yet")
            return pd.DataFrame({{"name": [os.path.basename(path) for path in mini_batch]}})
    """.format(mark=str(job.folder / "mark"))
    # One process, so that mini-batch 0 has told the header before mini-batch 1 ends the round.
    job.files(3).split(script, append_row_dataframe_header=True, run_max_try=1, process_count_per_node=1)
    with pytest.raises(ThresholdExceededError):
        job.run()
    before = job.plan.store.read(names.HEADER)
    (job.folder / "mark").touch()
    job.run()
    assert job.rows() == ["name", *job.names(3)]
    assert job.plan.store.read(names.HEADER) == before
    job.reduce()
    assert job.rows() == ["name", *job.names(3)]


def test_of_many_at_once_one_header_holds(tmp_path):
    store, barrier = Store(str(tmp_path)), threading.Barrier(8)

    def ask(number):
        barrier.wait()
        return answer(None, store, "header", {"header": f"column{number}\n", "version": 0})

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(8)))
    ((ok, held),) = answers
    assert ok
    assert store.read(names.HEADER).decode() == held


def test_a_store_that_cannot_take_the_header_is_no_fault_of_the_script(job):
    job.files(1).split(FRAMES, append_row_dataframe_header=True)
    (job.folder / job.plan.run_dir / names.HEADER).mkdir()
    with pytest.raises(StorageError, match="header"):
        job.node()


def test_settings_beside_a_script_in_a_sub_folder_are_honoured(job):
    folder = job.folder / "source" / "scoring"
    folder.mkdir(parents=True)
    to_csv = {"sep": ",", "index": True, "header": True}
    for place, settings in ((folder, to_csv), (folder.parent, {"sep": "|"})):
        document = {"append_row": {"pandas.DataFrame.to_csv": settings}}
        (place / "parallel_run_step.settings.json").write_text(json.dumps(document))
    (folder / "score.py").write_text(
        "import pandas as pd\ndef run(batch): return pd.DataFrame({'a': [1] * len(batch), 'b': 'x'})\n"
    )
    job.files(2)
    for asked, rows in ((False, [",a,b", "0,1,x"] * 2), (True, [",a,b", "0,1,x", "0,1,x"])):
        job.plan = split(job.request(entry_script="scoring/score.py", append_row_dataframe_header=asked))
        job.run()
        assert job.rows() == rows
