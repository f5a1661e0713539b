"""How long `conki --help`, `conki inspect` and the first training step take, beside the least that could do the same.

    python -m tests.benchmarks.startup --workspace W [--encoder FOLDER --rounds 9]

W has features/mosi.h5. Beside `--help`: a bare Typer application with Rich. Beside `inspect`: a bare Typer command that
opens the store with h5py and prints one Rich table. Beside `finetune` up to the first finished step: importing torch
and the transformers class, loading the encoder's weights, and one step of it on 32 sentences of 16 tokens. Every
command is a process of its own; commands alternate; medians and their ratios.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.common import spread

BARE_HELP = """
import typer
app = typer.Typer(rich_markup_mode="rich")
@app.command()
def one(path: str = "x") -> None:
    "Do one thing."
@app.command()
def two(path: str = "x") -> None:
    "Do another."
app()
"""
BARE_INSPECT = """
import typer
app = typer.Typer()
@app.command()
def show(path: str) -> None:
    "Show a store."
    import h5py
    from rich.console import Console
    from rich.table import Table
    table = Table("split", "clips")
    with h5py.File(path) as file:
        for split in ("train", "valid", "test"):
            table.add_row(split, str(len(file[split]["ids"][:])))
    Console().print(table)
app()
"""
BARE_STEP = """
import sys
import torch
from transformers import BertModel
torch.set_num_threads(1)
model = BertModel.from_pretrained(sys.argv[1]).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
model(input_ids=torch.randint(5, 20, (32, 16))).pooler_output.sum().backward()
optimizer.step()
print("stepped")
"""
FIRST_STEP = """
import sys
from conki_cli.training import loop as training
whole = training._Fit._backward
def first(*given):
    found = whole(*given)
    print("stepped", flush=True)
    raise SystemExit(0)
training._Fit._backward = first
from conki_cli.cli import main
sys.argv = ["conki", *sys.argv[1:]]
main()
"""


def seconds_of(command: list[str]) -> float:
    """Run a command to its end."""
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - began


def compare(name: str, ours: list[str], bare: list[str], rounds: int) -> None:
    """Alternate two commands and print how they compare."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds + 1):
        for arm, command in (("ours", ours), ("bare", bare)) if number % 2 else (("bare", bare), ("ours", ours)):
            taken = seconds_of(command)
            if number:
                seconds[arm].append(taken)
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["bare"])
    print(f"{name}: {spread(seconds['ours'])}; bare {spread(seconds['bare'])}; ratio {ratio:.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--encoder", help="folder of a small encoder; without it the first step is left out")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    conki = [sys.executable, "-m", "conki_cli"]
    compare("conki --help", [*conki, "--help"], [sys.executable, "-c", BARE_HELP, "--help"], options.rounds)
    store = options.workspace / "features" / "mosi.h5"
    inspect = [*conki, "inspect", "mosi", "--workspace", str(options.workspace)]
    compare("conki inspect", inspect, [sys.executable, "-c", BARE_INSPECT, str(store)], options.rounds)
    if options.encoder is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "features").symlink_to((options.workspace / "features").absolute())
        given = ["finetune", "--external", "none", "--encoder", options.encoder, "--workspace", folder]
        given += ["--set", "model.adapter_width=32", "--set", "model.num_layers=2", "--set", "optimizer.batch_size=32"]
        ours = [sys.executable, "-c", FIRST_STEP, *given]
        compare("first step", ours, [sys.executable, "-c", BARE_STEP, options.encoder], options.rounds)


if __name__ == "__main__":
    main()
