"""Do two external sets with different words teach more than either? On the built-in corpora, three seeds.

    python -m tests.benchmarks.externals --workspace DIR

`demo-external-a` and `demo-external-b` each have half of the words that the demo's training split lacks, so a model
that learns from both should know them all. ConKI with the demo's settings; every step is a `conki finetune` command,
which is printed; given again, finished steps are reused.
"""

import argparse
from pathlib import Path

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
        print(*(row.words() for row in mae_rows(options.workspace, names)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
