"""Do two external sets with different words teach more than either? On the built-in corpora, three seeds.

    python -m tests.benchmarks.externals --workspace DIR

`demo-external-a` and `demo-external-b` have the opinion words of the demo's training split and each half of those that
it lacks, so a model that learns from both should know them all. ConKI with the demo's settings; every step is a
`conki finetune` command, which is printed; given again, finished steps are reused. At the end the test error is split
by the opinion words of the clips: those of the target's training split only, or also some of a or of b (not of both).
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conki_cli.config.words import parse_seeds
from conki_cli.data.sources import demo
from conki_cli.data.store.records import Sample
from conki_cli.runs import read_predictions
from conki_cli.system.workspace import Workspace
from tests.benchmarks.study import DEMO, Trainer
from tests.benchmarks.tables import mae_rows

ARMS = {
    "no external set": ["--external", "none"],
    "demo-external-a": ["--external", "demo-external-a"],
    "demo-external-b": ["--external", "demo-external-b"],
    "both": ["--external", "demo-external-a+demo-external-b"],
}


def main() -> None:
    """Train every arm and print its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--seeds", default="1..3")
    parser.add_argument("--print", action="store_true", help="only print the commands")
    options = parser.parse_args()
    options.demo = True
    trainer = Trainer(DEMO, options)
    names = {label: f"externals-{label.replace(' ', '-')}" for label in ARMS}
    for label, words in ARMS.items():
        trainer.train(names[label], words, [], options.seeds)
    if not options.print:
        print(*(row.words() for row in mae_rows(options.workspace, names)), sep="\n")
        for label, name in names.items():
            errors = errors_by_words(Workspace(options.workspace).runs / name, parse_seeds(options.seeds))
            print(f"{label:<24}", *(f"{words}: {np.mean(values):.3f}" for words, values in errors.items()), sep="   ")


def errors_by_words(run: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Return the absolute test errors of a run by where the opinion words of a clip occur in training."""
    corpora = {
        "only words of the target": demo.demo_corpus().splits["train"],
        "a word of a": [*itertools.chain(*demo.demo_external_a_corpus().splits.values())],
        "a word of b": [*itertools.chain(*demo.demo_external_b_corpus().splits.values())],
    }
    known = {name: opinion_words(clips) for name, clips in corpora.items()}
    known = {name: words - known["only words of the target"] for name, words in known.items()}
    texts = {clip.id: opinion_words([clip]) for clip in demo.demo_corpus().splits["test"]}
    errors: dict[str, list[float]] = {name: [] for name in known}
    for seed in seeds:
        stored = read_predictions(run / f"seed-{seed}" / "predictions" / "test.csv")
        for clip, error in zip(stored.ids, np.abs(stored.predictions - stored.scores), strict=True):
            found = [name for name in ("a word of a", "a word of b") if texts[clip] & known[name]]
            found = found or ["only words of the target"]
            if len(found) == 1:  # clips with words of both are in neither
                errors[found[0]].append(float(error))
    return errors


def opinion_words(clips: Sequence[Sample]) -> set[str]:
    """Return the opinion words of clips."""
    return {word for clip in clips for word in clip.text.split() if word in demo.OPINION_WORDS}


if __name__ == "__main__":
    main()
