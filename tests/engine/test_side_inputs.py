# SPDX-License-Identifier: Apache-2.0
"""Side inputs: what every process has whole, of a folder and of a store."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun.datasets import FileDataset, TabularDataset
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
from airflow_parallelrun.engine.side_inputs import argument
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InputNotFoundError,
    InterruptedRunError,
    InvalidValueError,
    NotSupportedError,
    SideInputChangedError,
    StorageError,
)
from airflow_parallelrun.filesystems import locate

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Job
    from storage_servers import ObjectStore

    from airflow_parallelrun.datasets import DatasetInput

# Every row is what the script found of its side inputs.
LOOK = """
import json, os, sys
def look(path):
    if os.path.isfile(path):
        return [os.path.basename(path), open(path).read()]
    found = [os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names]
    return {os.path.relpath(file, path): open(file).read() for file in sorted(found)}
def run(mini_batch):
    names = [name for name in ("labels", "words") if name in os.environ]
    found = {name: look(os.environ[name]) for name in names}
    same = all(os.environ[name] == os.environ["AZUREML_DATAREFERENCE_" + name] for name in names)
    at = [argument for argument in sys.argv if os.path.isabs(argument) and not argument.endswith(".py")]
    return [json.dumps([found, same, [os.environ["labels"]] == at]) for _ in mini_batch]
"""
SECRET = """
import os
def run(mini_batch):
    return [str({secret!r} in repr(dict(os.environ)) + open("/proc/self/cmdline").read()) for _ in mini_batch]
"""


def side(name: str, *paths: str) -> DatasetInput:
    return FileDataset.from_files(list(paths)).as_named_input(name)


def plan(job: Job, *sides: DatasetInput, script: str = LOOK, **config: Any) -> Job:
    job.files(2)
    source = job.folder / "source"
    source.mkdir(exist_ok=True)
    (source / "score.py").write_text(script)
    arguments = config.pop("arguments", ["--labels", argument("labels")])
    request = job.request(arguments=arguments, **config)
    job.plan = split(replace(request, side_inputs=sides))
    return job


def found(job: Job) -> Any:
    """What the script found, which is the same in every row; the path was where it should be, each time."""
    rows = {row: json.loads(row) for row in job.rows()}
    [(sides, same, in_arguments)] = rows.values()
    assert (same, in_arguments) == (True, True)
    return sides


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_local_ones_are_used_where_they_are(job: Job) -> None:
    folder = write(job.folder / "side", labels_txt="zero one", words__de_txt="null", words__deep__en_txt="0")
    plan(job, side("labels", "side/labels.txt"), side("words", "side/words")).run()
    assert found(job) == {
        "labels": ["labels.txt", "zero one"],
        "words": {"de.txt": "null", "deep/en.txt": "0"},
    }
    listed = [each["paths"] for each in json.loads(job.plan.to_json())["side_inputs"]]
    assert listed == [[str(folder / "labels.txt")], [str(folder / "words")]]


def test_a_glob_and_several_paths_are_a_folder(job: Job) -> None:
    write(job.folder / "side", a__1_txt="1", a__2_txt="2", a__x_log="x", b__1_txt="3", c_txt="4")
    plan(job, side("labels", "side/**/*.txt"), side("words", "side/b", "side/a/x.log")).run()
    assert found(job) == {
        "labels": {"a/1.txt": "1", "a/2.txt": "2", "b/1.txt": "3", "c.txt": "4"},
        "words": {"b/1.txt": "3", "a/x.log": "x"},
    }


def test_those_of_a_store_are_fetched(job: Job, input_store: ObjectStore) -> None:
    for name, text in {"a/1.txt": "1", "a/deep/2.txt": "2", "b/3.txt": "", "labels.txt": "zero"}.items():
        input_store.write(f"side/{name}", text.encode())
    if input_store.scheme != "sftp":  # how consoles of stores make a folder
        input_store.write("side/a/")
    url = f"{input_store.url}/side"
    plan(job, side("labels", f"{url}/labels.txt"), side("words", f"{url}/a/")).run()
    assert found(job) == {"labels": ["labels.txt", "zero"], "words": {"1.txt": "1", "deep/2.txt": "2"}}

    plan(job, side("labels", f"{url}/**/*.txt"), side("words", f"{url}/b", f"{url}/a/1.txt"), output="two")
    job.run()
    row = json.loads((job.folder / "two" / "parallel_run_step.txt").read_text().splitlines()[0])
    assert row[0] == {
        "labels": {"a/1.txt": "1", "a/deep/2.txt": "2", "b/3.txt": "", "labels.txt": "zero"},
        "words": {"b/3.txt": "", "a/1.txt": "1"},
    }

    script = SECRET.format(secret=input_store.secret[:-1])
    plan(job, side("labels", f"{url}/a"), script=script, output="three").run()
    assert (job.folder / "three" / "parallel_run_step.txt").read_text() == "False\nFalse\n"


def test_what_has_changed_since_is_an_error(job: Job) -> None:
    folder = write(job.folder / "side", labels_txt="zero", words__de_txt="null")
    plan(job, side("labels", "side/labels.txt"), side("words", "side/words"))
    (folder / "words" / "de.txt").write_text("eins")
    with pytest.raises(SideInputChangedError, match=r"side input 'words' .*/words/de\.txt' has changed"):
        job.node()
    (folder / "labels.txt").unlink()
    with pytest.raises(SideInputChangedError, match=r"side input 'labels' .*/labels\.txt' is gone"):
        job.node()


@pytest.mark.parametrize("now", [b"1", b"one", None])
def test_what_has_changed_in_a_store_is_an_error(
    job: Job, object_store: ObjectStore, now: bytes | None
) -> None:
    object_store.write("side/a.txt", b"0")
    object_store.write("side/b.txt", b"b")
    plan(job, side("labels", f"{object_store.url}/side"))
    if now is None:
        object_store.fs.rm_file(f"{object_store.container}/side/a.txt")
    else:
        object_store.write("side/a.txt", now)
    what = "is gone" if now is None else "has changed"
    with pytest.raises(SideInputChangedError, match=rf"side input 'labels' .*/side/a\.txt' {what}"):
        job.node()


@pytest.mark.usefixtures("at_once")
def test_a_store_that_does_not_answer_is_worth_a_retry(
    job: Job, s3_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.write("side/a.txt", b"0")
    plan(job, side("labels", f"{s3_store.url}/side"))

    def fail(path: str, **_: Any) -> bytes:
        raise ConnectionError(f"reset by {s3_store.secret}")

    with monkeypatch.context() as patch:
        patch.setattr(locate(s3_store.url).fs, "cat_file", fail)
        with pytest.raises(StorageError, match=r"side input 'labels' .*ConnectionError: reset by \*\*\*"):
            job.node()
    job.run()
    assert found(job) == {"labels": {"a.txt": "0"}}


def test_a_node_that_is_fetching_stops_when_it_is_asked_to(
    job: Job, s3_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.write("side/a.txt", b"0")
    plan(job, side("labels", f"{s3_store.url}/side"))
    node, hanging = Node(job.plan.run_dir, 0), threading.Event()
    fs = locate(s3_store.url).fs
    monkeypatch.setattr(fs, "cat_file", lambda *_, **__: node.request_stop() or hanging.wait(60))
    with pytest.raises(InterruptedRunError):
        node.run()
    assert not hanging.is_set()
    hanging.set()


@pytest.mark.parametrize(
    ("sides", "error", "message"),
    [
        ([FileDataset.from_files("x").as_mount()], InvalidValueError, r"side_inputs\[0\] .* with a name"),
        ([FileDataset.from_files("x")], InvalidValueError, r"add \.as_named_input\(name\)"),
        (["x"], InvalidValueError, r"side_inputs\[0\] must be a dataset"),
        ([side("a", "x"), side("a", "y")], InvalidValueError, r"side_inputs\[1\] must be one that nothing"),
        ([side("MINE", "x")], InvalidValueError, r"side_inputs\[0\] must be one that nothing else has"),
        ([side("PATH", "x")], InvalidValueError, "a meaning of its own"),
        ([side("AZUREML_MODEL_DIR", "x")], InvalidValueError, "a meaning of its own"),
        (
            [TabularDataset.from_delimited_files("x.csv").as_named_input("a")],
            NotSupportedError,
            "A table as side input",
        ),
        ([side("labels", "gone.txt")], InputNotFoundError, "gone.txt"),
        ([side("labels", "input", "memory:///x")], InputNotFoundError, "memory"),
        ([side("words", "input")], ConfigurationError, "name the side input 'labels', and the run has words"),
    ],
)
def test_what_cannot_be_a_side_input(
    job: Job, sides: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(job, *sides, environment_variables={"MINE": "1"})
    assert not job.output.exists()


def test_files_of_two_stores_have_no_folder_in_common(
    job: Job, azure_store: ObjectStore, s3_store: ObjectStore
) -> None:
    for store in (azure_store, s3_store):
        store.write("side/a.txt", b"0")
    paths = (f"{azure_store.url}/side", f"{s3_store.url}/side")
    for given in (paths, ("input", paths[0])):
        with pytest.raises(InvalidValueError, match="side input 'labels' must be paths of one store"):
            plan(job, side("labels", *given))


def test_a_redrive_has_the_same_ones(job: Job) -> None:
    write(job.folder / "side", labels_txt="zero")
    failing = LOOK.replace("names = [", "assert '00001' not in mini_batch[0]\n    names = [", 1)
    plan(job, side("labels", "side/labels.txt"), script=failing, error_threshold=-1).run()
    (job.folder / "source" / "score.py").write_text(LOOK)
    asked = RedriveRequest(
        by="test/2",
        config=job.plan.config,
        arguments=("--other", argument("words")),
        models_root=None,
        fresh_code=True,
        base_directory=str(job.folder),
    )
    with pytest.raises(ConfigurationError, match="name the side input 'words', and the run has labels"):
        redrive(job.plan.run_dir, asked)
    redrive(job.plan.run_dir, replace(asked, arguments=("--other", argument("labels"))))
    job.run()
    assert found(job) == {"labels": ["labels.txt", "zero"]}
    assert len(job.rows()) == 2
