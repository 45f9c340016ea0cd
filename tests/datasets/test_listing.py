# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
import fnmatch
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.datasets import ListedFile, list_files
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EmptyInputError,
    InputNotFoundError,
    InputUnreadableError,
    InvalidValueError,
    NotSupportedError,
)
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterator


def names(*paths: object, below: object = "") -> list[str]:
    """The listed paths, relative to *below*."""
    prefix = f"{below}/" if below else ""
    return [file.path.removeprefix(prefix) for file in list_files([str(path) for path in paths])]


def make(folder: Path, *files: str) -> Path:
    for file in files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make(
        tmp_path, "b.png", "a/x.png", "a/b/y.png", "a/b/z.txt", "a-b.png", "a.png", "a0", ".hidden", "ä"
    )


def test_a_folder_counts_every_file_below_it_in_the_order_of_paths(tree: Path) -> None:
    expected = [".hidden", "a-b.png", "a.png", "a/b/y.png", "a/b/z.txt", "a/x.png", "a0", "b.png", "ä"]

    assert names(tree, below=tree) == expected
    assert names(f"{tree}/", below=tree) == expected
    assert names(f"file://{tree}", below=tree) == expected
    assert expected == sorted(expected, key=os.fsencode)


def test_a_file_with_its_size_and_time(tree: Path) -> None:
    stat = (tree / "a.png").stat()
    expected = ListedFile(f"{tree}/a.png", 5, stat.st_mtime_ns, None)

    assert list(list_files([f"{tree}/a.png"])) == [expected]
    assert expected in list(list_files([str(tree)]))


def test_relative_paths_and_the_home_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert names("a/b", below=tree) == ["a/b/y.png", "a/b/z.txt"]
    assert names("./a/../a0", below=tree) == ["a0"]
    monkeypatch.setenv("HOME", str(tree))
    assert names("~/a0", below=tree) == ["a0"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a-b.png", "a.png", "b.png"]),
        ("[!a]*.png", ["b.png"]),
        ("?.png", ["a.png", "b.png"]),
        ("*", [".hidden", "a-b.png", "a.png", "a0", "b.png", "ä"]),
        ("*/*.png", ["a/x.png"]),
        ("a/*/*", ["a/b/y.png", "a/b/z.txt"]),
        ("**/*.png", ["a-b.png", "a.png", "a/b/y.png", "a/x.png", "b.png"]),
        ("a/**", ["a/b/y.png", "a/b/z.txt", "a/x.png"]),
        ("**/b/**/*.png", ["a/b/y.png"]),
        ("**/**/y.png", ["a/b/y.png"]),
        ("[ab]/b/[yz].*", ["a/b/y.png", "a/b/z.txt"]),
    ],
)
def test_globs_are_the_same_here_and_in_a_store(
    tree: Path, memory: MemoryFileSystem, pattern: str, expected: list[str]
) -> None:
    for file in names(tree, below=tree):
        memory.pipe_file(f"/tree/{file}", b"")

    assert names(tree / pattern, below=tree) == expected
    assert names(f"memory://tree/{pattern}", below="memory:///tree") == expected


def test_a_path_that_exists_is_no_glob(tmp_path: Path, memory: MemoryFileSystem) -> None:
    make(tmp_path, "a[1].png", "a1.png", "b*/x")
    assert names(tmp_path / "a[1].png", below=tmp_path) == ["a[1].png"]
    assert names(tmp_path / "b*", below=tmp_path) == ["b*/x"]

    memory.pipe({"/t/a[1].png": b"", "/t/a1.png": b""})
    assert names("memory://t/a[1].png") == ["memory:///t/a[1].png"]


def test_a_double_star_is_a_part_of_its_own(tree: Path) -> None:
    for path in (f"{tree}/**.png", "memory://t/a**/b"):
        with pytest.raises(InvalidValueError, match=r"path must be a glob in which \*\* stands alone"):
            names(path)


def test_what_several_paths_lead_to_counts_once(tree: Path, memory: MemoryFileSystem) -> None:
    memory.pipe("/t/x", b"")
    several = [tree / "b.png", tree / "a", tree / "a/b/../x.png", tree / "*.png", f"file://{tree}/b.png"]

    assert names(*several, "memory://t", "memory://t/*") == [
        *[f"{tree}/{name}" for name in ("a-b.png", "a.png", "a/b/y.png", "a/b/z.txt", "a/x.png", "b.png")],
        "memory:///t/x",
    ]


def test_run_directories_are_left_out(tmp_path: Path, memory: MemoryFileSystem) -> None:
    files = ["x/.parallelrun/run1/plan.json", ".parallelrun/y", "x/.parallelruns/z", "x/a.parallelrun"]
    make(tmp_path, *files)
    memory.pipe({f"/t/{file}": b"" for file in files})

    for pattern in ("", "/**", "/*/**"):
        assert names(f"{tmp_path}{pattern}", below=tmp_path) == ["x/.parallelruns/z", "x/a.parallelrun"]
        assert names(f"memory://t{pattern}", below="memory:///t") == ["x/.parallelruns/z", "x/a.parallelrun"]
    assert names(tmp_path / ".parallelrun", below=tmp_path) == [".parallelrun/y"]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    make(tmp_path, "data/a/x", "other/y")
    data = tmp_path / "data"
    (data / "linked").symlink_to(tmp_path / "other")
    (data / "a/file").symlink_to(tmp_path / "other/y")
    (data / "a/up").symlink_to(data)
    (tmp_path / "other/back").symlink_to(data / "linked")
    (data / "dangling").symlink_to(tmp_path / "nothing")
    (data / "self").symlink_to(data / "self")

    assert names(data, below=data) == ["a/file", "a/x", "linked/y"]
    assert names(data / "**/y", below=data) == ["linked/y"]


def test_only_regular_files_count(tmp_path: Path) -> None:
    make(tmp_path, "x")
    os.mkfifo(tmp_path / "pipe")

    assert names(tmp_path, below=tmp_path) == ["x"]
    with pytest.raises(InputUnreadableError, match="neither a file nor a folder"):
        names(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["nothing", "nothing/*.png", "file/x"])
def test_what_is_missing(tmp_path: Path, path: str) -> None:
    make(tmp_path, "file", "full/x")
    missing = tmp_path / path.removesuffix("/*.png")
    with pytest.raises(InputNotFoundError, match=f"{missing}' does not exist. Check the path"):
        names(tmp_path / "full", tmp_path / path)


def test_what_is_empty(tmp_path: Path, memory: MemoryFileSystem) -> None:
    make(tmp_path, "full/x")
    (tmp_path / "empty").mkdir()
    memory.mkdir("/empty")

    for empty in (f"{tmp_path}/empty", f"{tmp_path}/*.png", "memory://empty", "memory://empty/*"):
        with pytest.raises(
            EmptyInputError, match=r"the input has no file: .*Check the path or the glob"
        ) as refused:
            names(empty)
        assert refused.value.paths == [empty]
        assert names(empty, tmp_path / "full") == [f"{tmp_path}/full/x"]


def test_what_vanishes_meanwhile_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, "a", "b", "c/x", "d")
    files = list_files([str(tmp_path)])
    assert next(files).path == f"{tmp_path}/a"
    (tmp_path / "b").unlink()
    (tmp_path / "c/x").unlink()
    (tmp_path / "c").rmdir()
    assert [file.path for file in files] == [f"{tmp_path}/d"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, which every file would be readable to."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked() -> Iterator[Path]:
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as folder:
        root = make(Path(folder), "file", "open/x", "closed/y", "nostat/z", "outer/inner/x")
        root.chmod(0o755)
        for name, mode in (("file", 0), ("closed", 0), ("nostat", 0o444), ("outer", 0)):
            (root / name).chmod(mode)
        yield root
        for name in ("closed", "nostat", "outer"):
            (root / name).chmod(0o755)


@pytest.mark.parametrize("path", ["file", "closed", "closed/*", "nostat", "outer/inner", "*/x"])
def test_what_cannot_be_read(locked: Path, path: str) -> None:
    with (
        as_nobody(),
        pytest.raises(InputUnreadableError, match=r"Permission denied\. Check the perm") as refused,
    ):
        names(locked / path)
    assert str(locked) in refused.value.path


def test_an_unreadable_file_in_a_folder_is_listed(locked: Path) -> None:
    with as_nobody():
        assert names(locked / "f*", below=locked) == ["file"]


TREES = st.recursive(
    st.none(),
    lambda below: st.dictionaries(
        st.sampled_from(["a", "b", "a-b", "a.b", "a0", ".c", "ä", "\U0001f600"]), below
    ),
    max_leaves=12,
)


def plant(folder: Path, tree: dict[str, Any] | None) -> None:
    if tree is None:
        folder.write_bytes(b"")
        return
    folder.mkdir(exist_ok=True)
    for name, below in tree.items():
        plant(folder / name, below)


@given(
    TREES.filter(lambda tree: tree is not None), st.sampled_from(["**", "*", "a*", "*/*", "**/a*", "a/**/b"])
)
def test_a_listing_is_a_sorted_walk(tree: dict[str, Any], pattern: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        plant(Path(root), tree)
        walked = [
            os.path.relpath(os.path.join(folder, file), root)
            for folder, _, files in os.walk(root)
            for file in files
        ]
        expected = sorted(
            f"{root}/{name}" for name in walked if _matches(name.split("/"), pattern.split("/"))
        )
        try:
            assert [file.path for file in list_files([f"{root}/{pattern}"])] == expected
        except (EmptyInputError, InputNotFoundError):
            assert not expected


def _matches(name: list[str], pattern: list[str]) -> bool:
    """The rule as plainly as it can be said, however slow."""
    if not pattern:
        return not name
    if pattern == ["**"]:
        return bool(name)
    if pattern[0] == "**":
        return any(_matches(name[skipped:], pattern[1:]) for skipped in range(len(name)))
    return bool(name) and fnmatch.fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()


def test_a_store_is_listed_by_url(memory: MemoryFileSystem) -> None:
    memory.pipe({"/t/b": b"12", "/t/a/x": b"123", "/t/a-b": b""})

    listed = list(list_files(["memory://t"]))
    assert [file.path for file in listed] == ["memory:///t/a-b", "memory:///t/a/x", "memory:///t/b"]
    assert [file.size for file in listed] == [0, 3, 2]
    assert names("memory://t/b") == names("memory:///t/b") == ["memory:///t/b"]


def test_what_a_store_does_not_have(memory: MemoryFileSystem) -> None:
    with pytest.raises(InputNotFoundError, match="'memory://t/nothing' does not exist"):
        names("memory://t/nothing")


class Store(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Answers as stores of several makes do."""

    protocol = "teststore"
    cachable = False
    files: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    error: Exception | None = None

    def __init__(self, **options: Any) -> None:
        if options:
            raise TypeError(f"connect() got an unexpected option {options}")
        super().__init__()

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        if self.error:
            raise self.error
        found = [{"name": f"{path}/{name}", "type": "file", **info} for name, info in self.files.items()]
        return found if detail else [info["name"] for info in found]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    fsspec.register_implementation("teststore", Store, clobber=True)
    monkeypatch.setattr(Store, "error", None)
    monkeypatch.setattr(Store, "files", {})
    return Store


def test_what_stores_tell(store: type[Store]) -> None:
    second = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    expected = 1767323045_000006000
    store.files = {
        "a": {"size": 1, "LastModified": second, "ETag": '"e1"'},
        "b": {"size": None, "last_modified": second.replace(tzinfo=None), "etag": "e2"},
        "c": {"size": 3, "updated": "2026-01-02T03:04:05.000006Z"},
        "d": {"size": 4, "mtime": 1767323045.5},
        "e": {"size": 5, "mtime": "yesterday"},
        "marker/": {"size": 0},
    }

    assert list(list_files(["teststore://bucket"])) == [
        ("teststore://bucket/a", 1, expected, '"e1"'),
        ("teststore://bucket/b", 0, expected, "e2"),
        ("teststore://bucket/c", 3, expected, None),
        ("teststore://bucket/d", 4, 1767323045_500000000, None),
        ("teststore://bucket/e", 5, None, None),
    ]


def test_what_a_store_refuses(store: type[Store]) -> None:
    store.error = RuntimeError("403: no such key")
    with pytest.raises(
        InputUnreadableError, match=r"'teststore://bucket/x' cannot be read: RuntimeError: 403"
    ):
        names("teststore://bucket/x")


def test_urls_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValueError, match=r"path must be a URL that fsspec knows .*, got 'nosuch://x'"):
        names("nosuch://x")
    with pytest.raises(NotSupportedError, match=r"the chained URL 'zip://x::file:///y\.zip'"):
        names("zip://x::file:///y.zip")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        ConfigurationError,
        match=r"'gs://bucket/x' needs a driver that is not installed .*gcsfs.*parallelrun\[gcs\]",
    ):
        names("gs://bucket/x")


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("s3://b/x", True),
        ("abfs://c@a/x", True),
        ("zip://x::file:///y", True),
        ("file:///x", False),
        ("local:///x", False),
        ("/a://b", False),
        ("a::b", False),
        ("C:/x", False),
    ],
)
def test_what_is_remote(path: str, remote: bool) -> None:
    assert is_remote(path) is remote
