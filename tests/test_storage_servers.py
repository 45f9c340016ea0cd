# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_parallelrun.filesystems import locate

if TYPE_CHECKING:
    from storage_servers import ObjectStore


def test_a_url_of_the_store_leads_to_it(input_store: ObjectStore) -> None:
    url = input_store.write("folder/a b.txt", b"text")
    place = locate(url)
    assert place.fs is not input_store.fs
    assert place.fs.cat_file(place.path) == b"text"
    assert place.url(place.path) == url
    assert input_store.paths() == ["folder/a b.txt"]
    place.fs.pipe_file(place.path, b"other")
    assert input_store.read("folder/a b.txt") == b"other"
