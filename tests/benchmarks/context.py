"""Do the clips before help? `data.context` 0, 1, 2 and 4 on MOSI, three seeds, for ConKI and w/o C2.

    python -m tests.benchmarks.context --workspace DIR --encoder FOLDER
    python -m tests.benchmarks.context --workspace DIR --encoder FOLDER --limit 20      # does it start?

DIR holds features/mosi.h5 and, unless `--external none`, features/mosei.h5. Every step is a `conki finetune` command,
which is printed; given again, finished steps are reused. The lowest mean validation MAE chooses the context of an arm;
the table has all of them, with the test MAE. Words after `--` go to every command. Stage 1 caches the frozen encoder's
states per context (`-- --cache off` does not): with a context of 4 about five times those of none.
"""

import argparse
from pathlib import Path

from tests.benchmarks.study import HEADS, REAL, Trainer, settings
from tests.benchmarks.tables import mae_rows

ARMS = {"conki": [], "wo-C2": ["--drop", "C2"]}


def main() -> None:
    """Train every arm with every context, choose on validation, print both errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--encoder", default="bert-base-uncased")
    parser.add_argument("--arms", default=",".join(ARMS), help="some of the arms, separated by commas")
    parser.add_argument("--contexts", default="0,1,2,4", help="numbers of preceding clips, separated by commas")
    parser.add_argument("--seeds", default="1..3")
    parser.add_argument("--rate", type=float, default=3e-5, help="of the text encoder, the same for every context")
    parser.add_argument("--head", choices=list(HEADS), default="fast", help="rate of the rest, as in study.py")
    parser.add_argument("--external", default="mosei", help="external data set, or none")
    parser.add_argument("--limit", type=int, default=0, help="clips per split, to see that it starts; 0: all")
    parser.add_argument("--print", action="store_true", help="only print the commands")
    parser.add_argument("rest", nargs="*", help="further options of `conki finetune`, after --")
    options = parser.parse_args()
    options.demo = False
    more = [*options.rest, *(["--limit", str(options.limit)] if options.limit else [])]
    shared = list(REAL.shared)
    shared[shared.index("--external") + 1] = options.external
    trainer, mark = Trainer(REAL._replace(shared=shared), options), f"-limit-{options.limit}" if options.limit else ""
    rates = settings(
        optimizer__lr_encoders=options.rate, optimizer__lr_others=float(f"{options.rate * HEADS[options.head]:.3g}")
    )
    for arm in options.arms.split(","):
        names = {f"{arm}, context {count}": f"context-{arm}-{count}{mark}" for count in options.contexts.split(",")}
        for name, count in zip(names.values(), options.contexts.split(","), strict=True):
            words = [*REAL.stage_one, *ARMS[arm], *settings(data__context=int(count)), *more]
            trainer.train(name, words, rates, options.seeds)
        if not options.print:
            rows = mae_rows(options.workspace, names)
            best = min(rows, key=lambda row: row.valid)
            for row in rows:
                print(row.words(), "<- chosen on validation" if row is best else "", flush=True)


if __name__ == "__main__":
    main()
