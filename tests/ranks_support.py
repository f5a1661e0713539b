"""Several gloo ranks in forked processes, which need no second import of torch."""

import contextlib
import io
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from conki_cli.training.ranks import Ranks
from conki_cli.training.together import SeveralRanks

SECONDS = 120.0
"""When ranks count as stuck."""
Work = Callable[[Ranks], Any]


@contextlib.contextmanager
def group(rank: int, count: int, place: Path) -> Iterator[Ranks]:
    """Join a group of gloo ranks that meet in a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(place), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(hours=1))
    yield SeveralRanks(rank, count, store)
    dist.destroy_process_group()


def on_ranks(count: int, work: Work, *, seconds: float = SECONDS) -> list[Any]:
    """Return what `work` returns on every rank, None where the process ends in it; only the results are pickled."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pipes, started = [], []
        for rank in range(count):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_one, args=(rank, count, Path(folder) / "store", work, there))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside pytest's own threads
                process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            there.close()
            pipes.append(here)
            started.append(process)
        found = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(seconds), f"rank {rank} is stuck"
            try:
                is_well, value = pipe.recv()
            except EOFError:
                found.append(None)
                continue
            assert is_well, f"rank {rank}:\n{value}"
            found.append(torch.load(io.BytesIO(value), weights_only=False))
    return found


def _one(rank: int, count: int, place: Path, work: Work, pipe: "Connection[Any, Any]") -> None:
    torch.set_num_threads(1)
    try:
        with group(rank, count, place) as ranks:
            value = io.BytesIO()
            torch.save(work(ranks), value)  # pickled by itself a tensor would stay in this process
            pipe.send((True, value.getvalue()))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    os._exit(0)
