# SPDX-License-Identifier: Apache-2.0
"""R10: an output folder has one owner, and only what the run wrote is replaced."""

from __future__ import annotations

import errno
import json
import os

import pytest

from airflow_parallelrun.engine import ownership
from airflow_parallelrun.engine.store import temporary
from airflow_parallelrun.exceptions import OutputExistsError, OutputOwnedError, StorageError

RESULTS = ["rows.txt", "failed_items.jsonl", "job_result.json"]


@pytest.fixture
def output(tmp_path):
    folder = str(tmp_path / "output")
    ownership.take(folder, "me", RESULTS)
    return folder


def publish(output, content="rows\n", name="rows.txt"):
    """Publish a result as reduce does."""
    written = temporary(ownership.folder(output))
    with open(written, "x") as file:
        file.write(content)
    return ownership.publish(output, name, written)


def visible(output):
    return sorted(name for name in os.listdir(output) if name != ".parallelrun")


def test_names_of_results():
    assert ownership.result_names("rows.txt") == RESULTS
    assert ownership.result_names(None) == RESULTS[1:]


def test_the_owner_may_take_it_again_and_nobody_else(output):
    ownership.take(output, "me", RESULTS)
    with pytest.raises(OutputOwnedError, match=r"belongs to another run \(me\)"):
        ownership.take(output, "you", RESULTS)
    with open(f"{output}/.parallelrun/owner.json") as file:
        record = json.load(file)
    assert (record["format_version"], record["owner"]) == (1, "me")


def test_a_foreign_file_keeps_the_folder_from_being_taken(tmp_path):
    (tmp_path / "rows.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"rows\.txt"):
        ownership.take(str(tmp_path), "me", RESULTS)
    assert os.listdir(tmp_path) == ["rows.txt"]
    ownership.take(str(tmp_path), "me", ["other.txt"])


def test_a_dangling_link_is_a_foreign_file_too(tmp_path):
    (tmp_path / "rows.txt").symlink_to("nowhere")
    with pytest.raises(OutputExistsError):
        ownership.take(str(tmp_path), "me", RESULTS)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        ownership.take(str(tmp_path / "file" / "output"), "me", RESULTS)


def test_published_and_published_again(output):
    assert publish(output) == f"{output}/rows.txt"
    publish(output, "other rows\n")
    with open(f"{output}/rows.txt") as file:
        assert file.read() == "other rows\n"
    assert visible(output) == ["rows.txt"]
    ownership.take(output, "me", RESULTS)


def test_our_file_under_its_name_is_known_by_inode_size_and_time(output):
    status = os.stat(publish(output))
    mark = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    assert os.listdir(f"{output}/.parallelrun/published") == [mark]


@pytest.mark.parametrize("how", ["replaced", "appended", "rewritten", "touched"])
def test_what_somebody_made_of_our_file_is_not_ours(output, how):
    path = publish(output)
    status = os.stat(path)
    if how == "replaced":  # same size, same time, another inode
        with open(f"{path}.new", "w") as file:
            file.write("ROWS\n")
        os.utime(f"{path}.new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(f"{path}.new", path)
    elif how == "appended":
        with open(path, "a") as file:
            file.write("more\n")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "rewritten":
        with open(path, "r+") as file:
            file.write("ROWS\n")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        os.utime(path, ns=(0, 0))
    with open(path) as file:
        content = file.read()
    with pytest.raises(OutputExistsError):
        publish(output, "new rows\n")
    with pytest.raises(OutputExistsError):
        ownership.take(output, "me", RESULTS)
    with open(path) as file:
        assert file.read() == content


def test_a_file_that_appears_while_ours_is_written_is_kept(output):
    written = temporary(ownership.folder(output))
    with open(written, "x") as file:
        file.write("rows\n")
    with open(f"{output}/rows.txt", "w") as file:
        file.write("theirs")
    with pytest.raises(OutputExistsError):
        ownership.publish(output, "rows.txt", written)
    with open(f"{output}/rows.txt") as file:
        assert file.read() == "theirs"


def test_a_publication_whose_reply_was_lost_is_a_success(output, monkeypatch):
    written = temporary(ownership.folder(output))
    with open(written, "x") as file:
        file.write("rows\n")
    link = os.link

    def lost_reply(source, target):
        link(source, target)
        if os.path.basename(target) == "rows.txt":
            raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", lost_reply)
    path = ownership.publish(output, "rows.txt", written)
    with open(path) as file:
        assert file.read() == "rows\n"


def test_temporaries_lie_in_our_own_folder_and_never_meet(output):
    made = {temporary(ownership.folder(output)) for _ in range(100)}
    assert len(made) == 100
    assert {os.path.dirname(path) for path in made} == {ownership.folder(output)}


def test_a_result_that_cannot_be_removed_is_a_storage_error(output, monkeypatch):
    publish(output)

    def refuse(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StorageError, match=r"rows\.txt: Input/output error"):
        ownership.retract(output, "rows.txt")
    monkeypatch.undo()
    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(StorageError, match=r"rows\.txt: Input/output error"):
        ownership.retract(output, "rows.txt")
