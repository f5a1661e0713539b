"""Stores are verified by the room that writes them, and each is opened once."""

import shutil
from pathlib import Path

import pytest

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.verifying import KnownStores, stores_in, verify_store
from conki_cli.system.findings import Examination
from conki_cli.system.workspace import Workspace

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "version_1"


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    shutil.copytree(VERSION_1 / "features", tmp_path / "features")
    return Workspace(tmp_path)


def test_the_stores_of_a_workspace_are_listed_without_hidden_files(space: Workspace) -> None:
    shutil.copyfile(space.store("tiny"), space.stores / ".tiny.ab.h5")
    assert stores_in(space) == [space.store("tiny-external"), space.store("tiny")]


def test_a_sound_store_is_known_with_its_clips_after_it_was_verified(space: Workspace) -> None:
    stores, path = KnownStores(), space.store("tiny")
    (found,) = verify_store(path, Examination(space), stores)
    assert (found.severity, found.what[:8]) == ("ok", "25 clips")
    known = stores.at(path)
    assert known is not None
    with FeatureStore(path) as store:
        assert known.ids["test"] == store.split("test").ids


def test_a_store_is_asked_for_once_and_remembered(space: Workspace) -> None:
    stores, path = KnownStores(), space.store("tiny")
    first = stores.at(path)
    path.unlink()
    assert stores.at(path) is first
    assert (KnownStores().at(path), stores.is_unread(path)) == (None, False)


def test_every_byte_of_a_store_is_counted_once(space: Workspace) -> None:
    counts: list[int] = []
    examination = Examination(space, lambda count, remark: counts.append(count))
    list(verify_store(space.store("tiny"), examination, KnownStores()))
    assert sum(counts) == space.store("tiny").stat().st_size
