# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_parallelrun.filesystems import locate

if TYPE_CHECKING:
    from storage_servers import ObjectStore


def test_a_url_of_the_store_leads_to_it(object_store: ObjectStore) -> None:
    url = object_store.write("folder/a b.txt", b"text")
    place = locate(url)
    assert place.fs is not object_store.fs
    assert place.fs.cat_file(place.path) == b"text"
    assert place.url(place.path) == url
    assert object_store.paths() == ["folder/a b.txt"]
    place.fs.pipe_file(place.path, b"other")
    assert object_store.read("folder/a b.txt") == b"other"
