"""Long trainings: neither memory nor open files grow with the epochs."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import MakeConfig
from run_support import finetune

from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace


@dataclass
class Watch(Observer):
    """A observer that looks at the process whenever some epochs are over."""

    every: int = 1
    latest: str = ""
    files: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    @contextmanager
    def steps(self, label: str, total: int) -> Iterator[object]:  # type: ignore[override]
        yield self._advance

    def _advance(self, count: int, remark: str) -> None:
        if remark.startswith("epoch") and remark != self.latest:
            self.latest = remark
            if int(remark.split()[1].split("/")[0]) % self.every:
                return
            gc.collect()
            self.files.append(len(os.listdir("/proc/self/fd")))
            self.objects.append(len(gc.get_objects()))
            self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def watched(workspace: Workspace, make: MakeConfig, epochs: int, every: int) -> Watch:
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell what a process holds (/proc)")
    watch = Watch(every)
    lines = (f"optimizer.num_epochs={epochs}", "optimizer.patience=0", "data.external=none")
    finetune(make("T+V", *lines), workspace, watch)
    return watch


@pytest.mark.slow
def test_epochs_leave_no_open_files_and_no_objects(workspace: Workspace, tiny_config: MakeConfig) -> None:
    watch = watched(workspace, tiny_config, 16, 5)
    assert len(set(watch.files[1:])) == 1
    assert max(watch.objects[1:]) - watch.objects[1] < 9  # less than one per epoch


@pytest.mark.slow
def test_2000_epochs_take_no_more_memory_than_200(workspace: Workspace, tiny_config: MakeConfig) -> None:
    watch = watched(workspace, tiny_config, 2000, 20)
    assert len(watch.files) == 100
    assert max(watch.files[10:]) == watch.files[10]
    assert max(watch.objects[10:]) - watch.objects[10] < 200
    assert max(watch.resident[10:]) - watch.resident[10] < 4 * 2**20
