"""Commands under a failing disk: one process imports everything, and forks a child for each command.

A new interpreter would import torch for seconds each time. The forking process itself computes no gradients, because
torch's do not survive a fork. `python tests/fault_support.py ENCODER` is that process: a task is a line of its stdin.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import conki_cli

HEAVY = (
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "h5py",
    "safetensors.torch",
)
"""What training imports; a child that did it first would do it for itself alone."""
WRITING = ("open", "os.rename", "os.mkdir", "os.link", "os.remove")
"""What is counted, by Python's names for it: whatever is about to change the disk."""
BALLAST = "ballast"
"""The file that fills a disk."""
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """A disk that takes no more from the `at`-th event on (1 is the first), but for `spare` bytes."""

    at: int
    spare: int = 0
    disk: str = ""
    """The disk that is filled up; "" bounds the size of every file instead."""
    cut: str = ""
    """Or: the file that loses its second half, in place."""
    kills: bool = False
    """Or: the process is killed, as by `kill -9`."""
    after: float = 0.0
    """Killed after so many seconds, rather than at an event."""


@dataclass(frozen=True)
class Done:
    """What a command left in its pipes, and how many events it had."""

    code: int
    out: str
    err: str
    events: int = 0


class Commands:
    """The forking process, seen from the tests, that has loaded a text encoder once; a context manager."""

    def __init__(self, encoder: Path) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONWARNINGS": "ignore"}
        env["PYTHONPATH"] = str(Path(conki_cli.__file__).parents[1])
        env.pop("CONKI_WORKSPACE", None)
        command = [sys.executable, __file__, str(encoder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env, encoding="utf-8")

    def run(self, space: Path, arguments: list[str], fault: Fault | None = None) -> Done:
        """Run `conki` in a workspace."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = {"space": str(space), "arguments": arguments, "fault": asdict(fault) if fault else None}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()  # closes its stdin, which ends it


def _serve() -> None:
    import torch

    for name in ("conki_cli.experiments.execution", "conki_cli.cli", *HEAVY):
        importlib.import_module(name)
    from conki_cli.text import load_backbone, load_tokenizer

    torch.set_num_threads(1)
    load_backbone(sys.argv[1])
    load_tokenizer(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_forked(json.loads(line))) + "\n")
        sys.stdout.flush()
    os._exit(0)  # torch takes a second to tidy up


def _forked(task: dict[str, Any]) -> dict[str, Any]:
    pipes = {name: os.pipe() for name in ("report", "out", "err")}
    gc.freeze()  # a child that collects garbage would copy every page of memory
    child = os.fork()
    if not child:
        os.dup2(pipes["out"][1], 1)
        os.dup2(pipes["err"][1], 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name, (reading, writing) in pipes.items():
            os.close(reading)
            if name != "report":
                os.close(writing)
        _child(task, pipes["report"][1])
    found: dict[str, str] = {}
    for name, (reading, writing) in pipes.items():
        os.close(writing)
        with open(reading, encoding="utf-8", errors="replace") as stream:
            found[name] = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    report = json.loads(found["report"] or '{"events": 0, "modules": []}')
    for name in report["modules"]:  # the next child need not import them
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return {"code": code, "out": found["out"], "err": found["err"], "events": report["events"]}


def _child(task: dict[str, Any], report: int) -> None:
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    space, fault = task["space"], Fault(**task["fault"]) if task["fault"] else None
    events, armed = 0, True

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal events, armed
        if not (armed and event in WRITING and str(args[0]).startswith(space)):
            return
        if event == "open" and not (args[2] or 0) & _WRITE_FLAGS:
            return
        events += 1
        if fault is not None and events == fault.at:
            armed = False
            _fail(fault)
            armed = True

    sys.argv = ["conki", *task["arguments"]]
    os.environ["CONKI_WORKSPACE"] = space
    from conki_cli.cli import main

    sys.addaudithook(count)
    if fault is not None and fault.after:
        timer = threading.Timer(fault.after, _fail, [fault])
        timer.daemon = True
        timer.start()
    code = 99
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    modules = sorted(name for name in sys.modules if not name.startswith("__")) if fault is None else []
    os.write(report, json.dumps({"events": events, "modules": modules}).encode())
    os._exit(code)


def _fail(fault: Fault) -> None:
    if fault.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.cut:
        os.truncate(fault.cut, Path(fault.cut).stat().st_size // 2)
        return
    if not fault.disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.spare, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return
    with open(Path(fault.disk) / BALLAST, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(1 << 12)):
            pass
    os.truncate(Path(fault.disk) / BALLAST, max(0, (Path(fault.disk) / BALLAST).stat().st_size - fault.spare))


if __name__ == "__main__":
    _serve()
