"""Runs with stored predictions and the store they were judged on, made up for tests of the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conki_cli.config.resolving import resolve, to_toml
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.writing import write_store
from conki_cli.metrics import sentiment_metrics
from conki_cli.runs import Predictions, Run, write_predictions
from conki_cli.system.files import write_json, write_text
from conki_cli.system.workspace import Workspace

HOSTILE = (
    "<script>document.title = 'hacked'</script>",
    "<img src=x onerror=\"document.title = 'hacked'\">",
    "](javascript:alert(1))",
    "=cmd|' /C calc'!A0",
    "\u202eevil \u2066 marks and \x1b[31m",
    "{{ 7 * 7 }} {% include '/etc/passwd' %}",
    "</style><style>* { display: none }</style></script>",
    "x" * 10_000,
)
SEEDS = (1, 2)


def make_space(root: Path, texts: Sequence[str] = HOSTILE, *, num_clips: int = 12) -> Workspace:
    """Write a text-only store called mosi whose test clips say `texts`, then plain words; scores go from -3 to 3."""
    plain = [f"clip number {n} said plainly" for n in range(len(texts), num_clips)]
    scores = np.linspace(-3, 3, num_clips).round(1)
    pairs = enumerate(zip([*texts, *plain], scores, strict=True))
    test = [Sample(f"video-{n // 3}$_${n}", text, float(score)) for n, (text, score) in pairs]
    train = [Sample(f"other-{n}$_$0", f"train clip {n} said this", n - 1.0) for n in range(4)]
    splits = {
        "train": train,
        "valid": [Sample("third$_$0", "valid", 0.5), Sample("third$_$1", "again", -1)],
        "test": test,
    }
    write_store(root / "features" / "mosi.h5", Corpus("mosi", (-3.0, 3.0), splits, "x.csv", "csv", "0" * 64))
    return Workspace(root)


def make_run(
    space: Workspace,
    name: str,
    noise: float,
    *,
    drop: str | None = None,
    seeds: Sequence[int] = SEEDS,
    external: str = "",
) -> Run:
    """Write a finished run on that store, whose predictions are the scores with noise.

    `external` is the content id of the store of mosei that it saw, if it saw one.
    """
    with FeatureStore(space.store("mosi")) as store:
        content, ids, scores = store.content_id, store.split("test").ids, store.split("test").scores
    assert scores is not None
    run = Run(space.runs / name)
    config = resolve(flags={"data.dataset": "mosi", "run.seeds": tuple(seeds), "model.drop": drop})
    write_text(run.path / "config.toml", to_toml(config))
    about = {
        "schema": 1,
        "stage": "finetune",
        "digest": "0",
        "dataset": "mosi",
        "label": "x",
        "data": {"mosi": content} | ({"mosei": external} if external else {}),
    }
    about |= {"score_range": [-3, 3], "state": "finished", "seeds": list(seeds)}
    write_json(run.path / "result.json", about)
    for seed in seeds:
        draw = np.random.default_rng([seed, round(100 * noise)])
        predicted = (scores + noise * draw.normal(size=len(scores))).astype(np.float32)
        write_predictions(run.predictions_path(seed, "test"), Predictions(ids, scores, predicted))
        measured = {"test": sentiment_metrics(predicted, scores)}
        write_json(run.seed_folder(seed) / "result.json", {"metrics": measured, "best_epoch": 3, "epochs": 9})
        command = ["/x/conki", "finetune", "--workspace", "/home/me", "--seeds", "1..2", "--json", "--name", name]
        write_json(run.seed_folder(seed) / "environment.json", {"conki": "0.2", "command": command, "threads": 1})
    return run
