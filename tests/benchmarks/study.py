"""Is ConKI better than plain transfer? Rates chosen on validation with equal trials, then five seeds of every arm.

    python -m tests.benchmarks.study --workspace DIR --encoder FOLDER            # MOSI with MOSEI as external set
    python -m tests.benchmarks.study --workspace DIR --demo                      # the same on the built-in corpora

Every arm gets the same grid with seed 0: five rates of the text encoder on real texts, three on the demo, and a head
that is slower or faster than it. The lowest validation MAE decides, and only then are seeds 1 to 5 trained. Each step
is a `conki finetune` command, which is printed; given again, finished steps are reused and an interrupted one
continues. `--arms` restricts the study, `--print` shows the commands of the grid and trains nothing.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HEADS = {"slow": 0.2, "fast": 10.0}
"""Rate of what is not an encoder, as a multiple of the encoder's: the paper's ratio, and that of an untrained head."""


class Study(NamedTuple):
    """What is compared on which data."""

    shared: Sequence[str]
    """Options of every arm."""
    stage_one: Sequence[str]
    """Options of the arms whose stage 1 trains on frozen encoders."""
    first_pass: Sequence[str]
    """Options of plain transfer, whose first pass trains the whole network."""
    joint: Sequence[str]
    """Options of a stage 1 that trains adapters and encoders."""
    rates: Sequence[float]


def settings(**values: object) -> list[str]:
    """Write settings as `--set` options; two underscores stand for the dot."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


REAL = Study(
    shared=["--dataset", "mosi", "--external", "mosei", *settings(model__adapter_width=128, optimizer__num_epochs=6)],
    stage_one=settings(pretraining__num_epochs=5, pretraining__learning_rate=2e-4),
    first_pass=settings(pretraining__num_epochs=2, pretraining__lr_encoders=5e-5, pretraining__lr_others=5e-4),
    joint=settings(pretraining__num_epochs=2, pretraining__lr_encoders=5e-5, pretraining__learning_rate=5e-4),
    rates=(3e-5, 6e-5, 1e-4, 2e-4, 4e-4),
)
DEMO = Study(
    shared=["--dataset", "demo", *settings(optimizer__num_epochs=20)],
    stage_one=[],
    first_pass=settings(pretraining__lr_encoders=3e-4, pretraining__lr_others=3e-3),
    joint=settings(pretraining__lr_encoders=3e-4, pretraining__learning_rate=3e-3),
    rates=(3e-5, 1e-4, 3e-4),
)


def arms_of(study: Study) -> dict[str, list[str]]:
    """Return the options of every arm, by its name."""
    adapters = {"conki": []} | {f"wo-{name}": ["--drop", name] for name in ("C1", "C2", "C3", "C4", "N1", "handover")}
    return {
        **{name: [*study.stage_one, *options] for name, options in adapters.items()},
        "plain-transfer": [*study.first_pass, "--drop", "plain-transfer"],
        "text-alone": ["--drop", "C1+C2"],
        "joint": list(study.joint),
        "joint-wo-C4": [*study.joint, "--drop", "C4"],
        "joint-adapters": [*study.joint, "adapters"],
    }


def rates_of(study: Study, arm: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """Yield the grid of an arm: a name and the options of every trial."""
    for rate in study.rates:
        for head, factor in HEADS.items():
            found = settings(optimizer__lr_encoders=rate, optimizer__lr_others=float(f"{rate * factor:.3g}"))
            if "adapters" in arm:  # they go on learning, at a tenth of the encoder's rate
                found += settings(optimizer__lr_adapters=float(f"{rate / 10:.3g}"))
            yield f"{rate:g}-{head}", found


class Trainer:
    """Gives `conki finetune` commands and reads what they gave."""

    def __init__(self, study: Study, options: argparse.Namespace) -> None:
        self.study, self.options = study, options
        self.encoder = [] if options.demo else ["--encoder", options.encoder]

    def train(self, name: str, arm: Sequence[str], rates: Sequence[str], seeds: str) -> None:
        """Train the seeds of one run, or print the command alone."""
        own = [word for word in arm if word != "adapters"]
        words = ["finetune", *self.study.shared, *self.encoder, *own, *rates, "--seeds", seeds, "--name", name]
        print("conki", shlex.join(words), flush=True)
        if not self.options.print:
            program = [sys.executable, "-m", "conki_cli", *words, "--workspace", str(self.options.workspace)]
            subprocess.run([*program, "--device", "cpu", "--json"], check=True, stdout=subprocess.DEVNULL)

    def validation(self, name: str) -> float:
        """Return the validation MAE of a run, its mean over seeds."""
        result = json.loads((self.options.workspace / "runs" / name / "result.json").read_text())
        return float(result["metrics"]["valid"]["mae"]["mean"])

    def run(self, arms: Mapping[str, list[str]], prefix: str) -> None:
        """Choose the rates of every arm, then train its seeds."""
        for name, arm in arms.items():
            found: dict[str, float] = {}
            grid = dict(rates_of(self.study, arm))
            for trial, rates in grid.items():
                self.train(f"grid-{prefix}{name}-{trial}", arm, rates, "0")
                found[trial] = 0.0 if self.options.print else self.validation(f"grid-{prefix}{name}-{trial}")
            best = min(found, key=lambda trial: found[trial])
            print(f"# {name}: {', '.join(f'{t} {mae:.4f}' for t, mae in found.items())}; chosen: {best}", flush=True)
            self.train(f"study-{prefix}{name}", arm, grid[best], self.options.seeds)


def main() -> None:
    """Run the study and compare its arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--encoder", default="bert-base-uncased")
    parser.add_argument("--demo", action="store_true", help="the built-in corpora")
    parser.add_argument("--arms", help="some of the arms, separated by commas")
    parser.add_argument("--seeds", default="1..5")
    parser.add_argument("--print", action="store_true", help="only print the commands of the grid")
    options = parser.parse_args()
    study, prefix = (DEMO, "demo-") if options.demo else (REAL, "")
    arms = arms_of(study)
    chosen = {name: arms[name] for name in (options.arms.split(",") if options.arms else arms)}
    Trainer(study, options).run(chosen, prefix)
    names = [f"study-{prefix}{name}" for name in chosen]
    if len(names) > 1 and not options.print:
        program = [sys.executable, "-m", "conki_cli", "compare", *names, "--workspace", str(options.workspace)]
        subprocess.run(program, check=True)


if __name__ == "__main__":
    main()
