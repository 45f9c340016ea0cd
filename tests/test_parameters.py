# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import pickle

import pytest

from airflow_parallelrun.datasets import Dataset, DatasetInput, FileDataset
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError
from airflow_parallelrun.parameters import PipelineParameter


@pytest.mark.parametrize("default", [5, 0.5, "5", True, None, ["a", 1], Dataset.File.from_files("images")])
def test_a_parameter_is_a_value(default: object) -> None:
    parameter = PipelineParameter("batch_size_param", default_value=default)

    assert parameter == PipelineParameter("batch_size_param", default)
    assert eval(repr(parameter)) == parameter
    assert pickle.loads(pickle.dumps(parameter)) == parameter
    with pytest.raises(dataclasses.FrozenInstanceError):
        parameter.name = "other"  # type: ignore[misc]


def test_without_a_default_it_is_required() -> None:
    parameter = PipelineParameter("files")
    assert parameter.is_required
    assert not PipelineParameter("files", None).is_required
    assert parameter != PipelineParameter("files", None)
    assert repr(parameter) == "PipelineParameter(name='files')"
    assert eval(repr(parameter)) == parameter
    copy = pickle.loads(pickle.dumps(parameter))
    assert copy == parameter
    assert copy.is_required


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "a\n", "ä", None, 5])
def test_names_are_identifiers(name: object) -> None:
    with pytest.raises(InvalidValueError, match="name of a PipelineParameter must be letters, digits"):
        PipelineParameter(name, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "default",
    [
        {"a": 1},
        [["a"]],
        object(),
        PipelineParameter("x", 1),
        FileDataset(("images",)).as_mount(),
    ],
)
def test_defaults_are_plain_or_datasets(default: object) -> None:
    with pytest.raises(InvalidValueError, match=r"default_value of PipelineParameter 'p' must be a number"):
        PipelineParameter("p", default)


def test_a_list_cannot_be_changed_afterwards() -> None:
    given = ["a"]
    parameter = PipelineParameter("p", given)
    given.append("b")
    assert parameter.default_value == ["a"]


def test_a_dataset_parameter_becomes_an_input() -> None:
    mnist = PipelineParameter("mnist_param", FileDataset(("images",)))

    assert mnist.as_mount() == DatasetInput(mnist, "mount")
    assert mnist.as_download() == DatasetInput(mnist, "download")
    assert mnist.as_direct() == DatasetInput(mnist, "direct")
    assert mnist.as_named_input("images").as_direct() == DatasetInput(mnist, "direct", "images")


def test_without_a_default_it_stands_for_files() -> None:
    files = PipelineParameter("files")
    assert files.as_mount() == DatasetInput(files, "mount")
    assert files.as_named_input("images").as_download() == DatasetInput(files, "download", "images")
    assert files.as_direct().to_dict() == {"type": "file", "paths": files, "mode": "direct", "name": None}
    with pytest.raises(ConfigurationError, match="it has paths only once the run has started"):
        _ = files.as_mount().paths


@pytest.mark.parametrize("path", ["s3://bucket/images", ["/data", "https://host/images"]])
def test_the_value_of_a_run_may_be_in_a_store(path: str | list[str]) -> None:
    values = {**PipelineParameter("files").as_mount().to_dict(), "paths": path}
    given = DatasetInput.from_dict(values)
    assert (given.mode, given.paths) == ("mount", (path,) if isinstance(path, str) else tuple(path))


def test_the_value_of_a_run_is_checked_for_its_mode() -> None:
    table = {"type": "tabular", "paths": ["rows.csv"], "format": "delimited", "mode": "mount"}
    with pytest.raises(NotSupportedError, match=r"as_mount\(\) of a table"):
        DatasetInput.from_dict(table)


def test_another_parameter_is_no_input() -> None:
    with pytest.raises(InvalidValueError, match=r"'p' must be a dataset .*, or left out, .* got None"):
        PipelineParameter("p", None).as_mount()
    with pytest.raises(InvalidValueError, match=r"'p' must be a dataset .* used as an input, got 'images'"):
        PipelineParameter("p", "images").as_mount()


def test_a_default_in_a_store_can_be_mounted() -> None:
    images = PipelineParameter("p", FileDataset(("s3://bucket/images",)))
    assert images.as_mount() == DatasetInput(images, "mount")
