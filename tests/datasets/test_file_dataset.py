# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.datasets import Dataset, DatasetInput, FileDataset
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    UnknownNameError,
)
from airflow_parallelrun.parameters import PipelineParameter

IMAGES = FileDataset(("images",))


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ("a/b", ("a/b",)),
        (Path("a/b"), ("a/b",)),
        (["a", Path("b/*.png"), "s3://c"], ("a", "b/*.png", "s3://c")),
        (("~/a",), ("~/a",)),
    ],
)
def test_paths_are_kept_as_given(given: Any, paths: tuple[str, ...]) -> None:
    assert (
        Dataset.File.from_files(given) == FileDataset.from_files(given, validate=False) == FileDataset(paths)
    )
    assert FileDataset.from_files(given).paths == paths


@pytest.mark.parametrize("given", [[], (), "", " ", None, 5, b"a", ["a", 5], ["a", ""], ["a\0b"], {"a": 1}])
def test_what_is_no_path(given: Any) -> None:
    with pytest.raises(InvalidValueError, match="path must be a path as text, or a list of at least one"):
        Dataset.File.from_files(given)


def test_a_partition_format_has_keys() -> None:
    dataset = FileDataset.from_files("a", partition_format="{user}/{day:yyyy/MM/dd}/*.wav")
    assert (dataset.partition_keys, IMAGES.partition_keys) == (("user", "day"), ())
    assert PipelineParameter("p", dataset).as_mount().known_dataset is dataset
    assert PipelineParameter("p").as_mount().known_dataset is None
    assert DatasetInput.from_dict(dataset.as_direct().to_dict()) == dataset.as_direct()
    assert dataset.as_mount().resolve("/x").dataset == FileDataset(("/x/a",), dataset.partition_format)


@pytest.mark.parametrize("given", ["", "a/*.wav", "{user}/{user}", "{user", "user}", "{day:dd}", 5])
def test_what_is_no_partition_format(given: Any) -> None:
    with pytest.raises(InvalidValueError, match="partition_format must be a pattern of paths such as"):
        FileDataset.from_files("a", partition_format=given)


def test_a_dataset_becomes_an_input() -> None:
    assert IMAGES.as_mount() == DatasetInput(IMAGES, "mount", None)
    assert IMAGES.as_download() == DatasetInput(IMAGES, "download", None)
    assert IMAGES.as_direct() == DatasetInput(IMAGES, "direct", None)
    assert IMAGES.as_named_input("x").as_download() == IMAGES.as_download().as_named_input("x")
    assert IMAGES.as_named_input("x") == IMAGES.as_named_input("x").as_direct().as_mount()
    with pytest.raises(dataclasses.FrozenInstanceError):
        IMAGES.as_mount().mode = "direct"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "a\n", 5])
def test_names_of_inputs(name: Any) -> None:
    with pytest.raises(InvalidValueError, match="the name of an input must be letters, digits"):
        IMAGES.as_named_input(name)


def test_what_is_no_input() -> None:
    with pytest.raises(InvalidValueError, match="mode must be one of mount, download, direct, got 'hdfs'"):
        DatasetInput(IMAGES, "hdfs")
    for dataset in ("images", PipelineParameter("p", "images")):
        with pytest.raises(InvalidValueError, match="the dataset of an input must be a dataset such as"):
            DatasetInput(dataset)  # type: ignore[arg-type]


def test_urls_are_copied_unless_the_script_opens_them_itself() -> None:
    remote = FileDataset(("local", "abfs://mnist@datastore/mnist/"))

    assert remote.as_direct().paths == remote.paths
    assert remote.as_named_input("x").as_direct().name == "x"
    assert not remote.as_direct().is_staged
    for made in (
        remote.as_mount(),
        remote.as_download(),
        remote.as_direct().as_mount(),
        remote.as_named_input("x"),
        DatasetInput.from_dict({"paths": ["s3://bucket"]}),
    ):
        assert made.is_staged


def test_a_parameter_has_no_paths_before_the_run() -> None:
    given = PipelineParameter("p", IMAGES).as_named_input("x").as_direct()

    with pytest.raises(
        ConfigurationError, match=r"the input is still PipelineParameter.*once the run has started"
    ):
        _ = given.paths


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    given = FileDataset(("a/../b/*.png", "/c", "~/d", "file:///e%20f", "s3://bucket/g")).as_named_input("x")

    resolved = given.resolve(str(tmp_path))
    assert resolved.paths == (f"{tmp_path}/b/*.png", "/c", "/home/ada/d", "/e%20f", "s3://bucket/g")
    assert (resolved.name, resolved.mode) == ("x", "mount")
    with pytest.raises(ConfigurationError, match="still PipelineParameter"):
        PipelineParameter("p", IMAGES).as_mount().resolve("/")


inputs = st.builds(
    DatasetInput,
    st.builds(FileDataset, st.lists(st.sampled_from(["a", "/b/*.png", "ä"]), min_size=1).map(tuple)),
    st.sampled_from(["mount", "download", "direct"]),
    st.none() | st.from_regex("[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True),
)


@given(inputs)
def test_an_input_survives_json_and_pickle(made: DatasetInput) -> None:
    assert DatasetInput.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_parameter_stays_in_place() -> None:
    made = PipelineParameter("p", IMAGES).as_named_input("x")

    assert made.to_dict()["paths"] == PipelineParameter("p", IMAGES)
    assert DatasetInput.from_dict(made.to_dict()) == made
    assert DatasetInput.from_dict(made.to_dict() | {"paths": "one/file"}).paths == ("one/file",)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "a"}, UnknownNameError, "unknown key of an input 'path'; did you mean 'paths'"),
        ({"type": "image"}, InvalidValueError, "the type of an input must be one of file, tabular"),
        ({"paths": None}, InvalidValueError, "path must be"),
        ({"mode": "hdfs"}, InvalidValueError, "mode must be"),
        ({"name": "a-b"}, InvalidValueError, "the name of an input must be"),
    ],
)
def test_from_dict_checks_again(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DatasetInput.from_dict(IMAGES.as_mount().to_dict() | change)
