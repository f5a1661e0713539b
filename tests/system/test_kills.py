"""`kill -9` at any moment of any command that works for long: it ends with the bits of an undisturbed one."""

import random
import shutil
import sys
import time
from pathlib import Path

import pytest
from fault_support import Fault
from test_faults import KILLED, Day, assert_whole, day, digests

__all__ = ["day"]  # the fixture

COMMANDS = ("prepare", "pretrain", "finetune", "ablate", "self-mm", "mmim")


def storm(name: str, day: Day, space: Path, kills: int) -> None:
    """Kill a command again and again, at random writes and at random times, and let it end at last."""
    draw = random.Random(name)
    began = time.monotonic()
    shutil.copytree(day.before(name), tmp := space.with_name("undisturbed"))
    assert day.run(name, tmp).code == 0
    seconds, hits = time.monotonic() - began, 0
    shutil.copytree(day.before(name), space)
    while hits < kills:
        if draw.random() < 0.5:
            fault = Fault(draw.randrange(1, day.num_events(name) + 1), kills=True)
        else:
            fault = Fault(0, kills=True, after=draw.uniform(0, seconds))
        done = day.run(name, space, fault)
        assert done.code in (0, KILLED), done.err
        hits += done.code == KILLED
        if not done.code:
            assert digests(space) == digests(day.after(name))
            shutil.rmtree(space)
            shutil.copytree(day.before(name), space)
    done = day.run(name, space)
    assert done.code == 0, done.err
    assert_whole(space)
    assert digests(space) == digests(day.after(name))
    sys.stderr.write(f"{name}: {hits} kills survived\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_40_times_ends_with_the_same_bits(
    name: str,
    day: Day,
    tmp_path: Path,
) -> None:
    storm(name, day, tmp_path / "space", 40)
