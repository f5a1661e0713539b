"""ConKI on every subset of the modalities, trained on the demo without and with modality dropout.

    python -m tests.benchmarks.subsets --workspace W --seeds 1..3 --share 0.3 --threads 1

Both arms have the same settings except for the dropout. The table of each arm is over all subsets of the test split,
mean and deviation over the seeds; the last lines say in how many subsets dropout has the lower MAE. An interrupted
benchmark resumes where it stopped.
"""

import argparse
from pathlib import Path

import torch

from conki_cli.cli.screen import Screen
from conki_cli.config.resolving import resolve
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import parse_seeds, run_label
from conki_cli.experiments.execution import train_all
from conki_cli.experiments.robustness import conditions_of, measure
from conki_cli.reporting.tables.export import export_table
from conki_cli.reporting.tables.robustness import condition_rows
from conki_cli.runs import Evaluation, Run, evaluate_run
from conki_cli.system.workspace import Workspace

SPLIT = "test"


def main() -> None:
    """Train both arms, measure them on all subsets, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--seeds", default="1..3")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    space, screen = Workspace(options.workspace), Screen(json=False)
    arms = {"without dropout": 0.0, f"dropout {options.share:g}": options.share}
    found: dict[str, dict[str, Evaluation]] = {}
    for name, share in arms.items():
        config = config_of(parse_seeds(options.seeds), share)
        [(_, run)] = train_all([config], space, screen)
        found[name] = table_of(name, run, space, screen)
    plain, dropped = found.values()
    mae = {one: (plain[one].metrics["mae"]["mean"], dropped[one].metrics["mae"]["mean"]) for one in plain}
    for label, (before, after) in mae.items():
        print(f"{label}: MAE {before:.3f} without, {after:.3f} with dropout")
    print(f"lower with dropout: {sum(after < before for before, after in mae.values())} of {len(mae)} subsets")


def config_of(seeds: tuple[int, ...], share: float) -> RunConfig:
    """Return the configuration of an arm."""
    flags = {"data.dataset": "demo", "run.seeds": seeds, "run.device": "cpu"}
    return resolve(flags=flags, assignments=[f"optimizer.modality_dropout={share}"])


def table_of(name: str, run: Run, space: Workspace, screen: Screen) -> dict[str, Evaluation]:
    """Measure a run on all subsets; show the table and write it beside the runs, as Markdown."""
    conditions = conditions_of(run, screen, all_subsets=True)
    whole = evaluate_run(run, SPLIT, "all")
    measured = measure(run, conditions, SPLIT, space, screen)
    pairs = list(zip(conditions, measured, strict=True))
    rows, info = condition_rows(f"{run_label(run.config)}, {name}", run.config, whole, pairs, seed=0)
    export_table(rows, info, space.root / f"subsets-{name.replace(' ', '-')}.md")
    return {"text+vision+audio": whole, **{condition.label: one for condition, one in pairs}}


if __name__ == "__main__":
    main()
