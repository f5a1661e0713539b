"""The model card of an exported folder: README.md, with the metadata that the Hugging Face hub reads.

It contains only names and numbers, no clips and no texts. The same export gives the same card.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conki_cli import __version__
from conki_cli.config.externals import NO_EXTERNAL, external_weights
from conki_cli.config.models import facts, label_of
from conki_cli.config.sections import MODELS
from conki_cli.metrics import class_names
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.reporting.tables.systems import limit_notes
from conki_cli.runs import Run, learning_warnings
from conki_cli.runs.exported import Manifest
from conki_cli.system.errors import SettingsError, one_line
from conki_cli.system.readable import human_size

_METRICS = {
    "mae": ("mae", "MAE"),
    "corr": ("pearsonr", "Corr (Pearson)"),
    "acc7": ("accuracy", "Acc-7"),
    "acc5": ("accuracy", "Acc-5"),
    "acc3": ("accuracy", "Acc-3"),
    "acc2": ("accuracy", "Acc-2"),
    "acc2_nonneg": ("accuracy", "Acc-2"),
    "acc2_pos": ("accuracy", "Acc-2"),
    "f1": ("f1", "F1"),
    "f1_nonneg": ("f1", "F1"),
    "f1_pos": ("f1", "F1"),
}
"""Our name of a metric -> the hub's name of its kind, and its name on the card."""
_LIMITS = """## Limits

Scores reflect one data set's annotators, languages and topics; check the {them} on your own clips first. The data sets
and the text encoder have their own terms, which may apply to these weights. This folder contains no clips and no texts
of the data sets.
"""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
_PAPER = "https://aclanthology.org/2023.findings-acl.860"


@dataclass(frozen=True)
class Card:
    """What a card is made from.

    Attributes:
        run: whose weights were exported.
        exported: the exported model as a run, with the metrics of the exported seeds; None for adapters.
        about: what the folder's list says of their origin.
        license: identifier of the hub.
        mean_prediction: test metrics of each clip's mean prediction over the exported seeds, which the folder's model
            gives; empty for one seed, for adapters and without stored predictions.
    """

    run: Run
    exported: Run | None
    about: Mapping[str, Any]
    license: str
    mean_prediction: Mapping[str, float] = field(default_factory=dict)


def check_license(identifier: str) -> str:
    """Return an identifier that is valid for a licence in a card.

    Raises:
        SettingsError: it cannot.
    """
    if not _LICENSE.fullmatch(identifier):
        raise SettingsError(
            "--license takes an identifier of the hub, such as mit, apache-2.0, cc-by-nc-4.0 or other; "
            f"found {one_line(identifier)[:40]!r}"
        )
    return identifier


def render_card(card: Card, manifest: Manifest) -> str:
    """Return the text of the card: metadata, what the folder is, how to use it, how good it is, what it read."""
    from huggingface_hub import ModelCard

    body = _adapters_body(card, manifest) if card.exported is None else _model_body(card, card.exported, manifest)
    text = f"---\n{_metadata(card).to_yaml()}\n---\n\n{body}"
    return str(ModelCard(text))  # refuses metadata that the hub could not read


def _metadata(card: Card) -> Any:
    """Return the metadata as the hub's library writes them."""
    from huggingface_hub import EvalResult, ModelCardData

    about = card.about
    only_text = about["modalities"] == ["text"]
    results = [
        EvalResult(
            task_type="text-classification" if only_text else "video-classification",
            task_name="Multimodal sentiment analysis (regression of a score)",
            dataset_type=about["dataset"],
            dataset_name=about["dataset"],
            dataset_split="test",
            metric_type=_METRICS[name][0],
            metric_name=_named(name, card),
            metric_value=round(value, 6),
        )
        for name, value in (_published(card) if not card.run.config.data.limit else {}).items()
    ]
    base = about["text_encoder"]["hub"]
    targets = [about["dataset"]] if card.exported is not None else []
    return ModelCardData(
        license=card.license,
        library_name="conki",
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[*targets, *external_weights(about["external"] or NO_EXTERNAL)],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=["multimodal-sentiment-analysis", "sentiment-analysis", about["model"]],
        model_name=card.run.name if results else None,
        eval_results=results or None,
    )


def _published(card: Card) -> dict[str, float]:
    """Return the test metrics of what the folder predicts: the mean prediction of several seeds, or that of one."""
    found = card.mean_prediction or {name: mean for name, (mean, _) in _measured(card.exported).items()}
    return {name: found[name] for name in _METRICS if name in found}


def _measured(exported: Run | None) -> dict[str, tuple[float, float]]:
    """Return mean and deviation of every defined test metric over the exported seeds."""
    found = {} if exported is None else exported.record.metrics.get("test", {})
    pairs = {name: (found[name]["mean"], found[name]["std"]) for name in _METRICS if name in found}
    return {name: (mean, _number(std)) for name, (mean, std) in pairs.items() if mean is not None}


def _named(metric: str, card: Card) -> str:
    """Return the name of a metric on the card, with its two classes, split where the run splits them."""
    classes = class_names(card.run.config.data.threshold).get(metric.partition("_")[2])
    return f"{_METRICS[metric][1]} ({' / '.join(classes)})" if classes else _METRICS[metric][1]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _model_body(card: Card, exported: Run, manifest: Manifest) -> str:
    about = card.about
    low, high = about["score_range"]
    only_text = about["modalities"] == ["text"]
    call = '--text "worth every minute"' if only_text else "new_clips.pkl"
    parts = [
        f"# {_title(about)} on {about['dataset']}\n",
        f"It predicts the sentiment of a spoken opinion, a score from {low:g} to {high:g}, from "
        f"{_listed(about['modalities'])}. It was trained with `conki` {__version__} ({_origin(about)}); "
        f"{seeds_text(list(manifest.seeds))}, {human_size(manifest.size)}. {_method(about['model'])}\n",
        "## Use\n",
        f"```\nconki pull OWNER/NAME --out model\nconki predict ./model {call}\n```\n",
        "A prediction is the mean over the seeds. The weights are safetensors; nothing is unpickled, and `conki` "
        "refuses a folder whose files do not match the checksums in `conki.json`.\n",
        _metric_table(card, exported, manifest.seeds),
        *(f"**Warning**: {_plain(line)}\n" for line in limit_notes({exported.name: exported.config})),
        *(f"**Warning**: {_plain(line)}\n" for line in learning_warnings(exported, manifest.seeds)),
        _inputs(about),
        "\nThe model cannot use features of another extractor, even if their widths fit.\n",
        _LIMITS.format(them="model"),
    ]
    return "\n".join(parts)


def _adapters_body(card: Card, manifest: Manifest) -> str:
    about = card.about
    parts = [
        f"# ConKI adapters trained on {about['external']}\n",
        f"Adapters for {_listed(about['modalities'])} with the encoders that they were trained with, from stage 1 of "
        f"[ConKI]({_PAPER}) ({_origin(about)}); {seeds_text(list(manifest.seeds))}, "
        f"{human_size(manifest.size)}. They cannot predict by themselves: they transfer their knowledge to a model of "
        "another data set.\n",
        "## Use\n",
        "```\nconki pull OWNER/NAME --out adapters\nconki finetune --dataset mosi --adapters ./adapters\n```\n",
        "The target needs the same text encoder and the same settings of encoders and adapters (`config.toml`).\n",
        _inputs(about),
        "\nWith frames of another width the input layer of that encoder starts untrained; frames of the same width "
        "must be features of the same extractor.\n",
        _LIMITS.format(them="adapters"),
    ]
    return "\n".join(parts)


def _method(model: str) -> str:
    known = facts(model)
    if model == "conki":
        return f"The method is [ConKI]({_PAPER}) ({known.venue} {known.year}), independently implemented."
    return f"The method is *{known.title}* ({known.authors}; {known.venue} {known.year}), as `conki` implements it."


def _title(about: Mapping[str, Any]) -> str:
    name = label_of(about["model"]) if about["model"] in MODELS else about["model"]
    return name if about["label"] in (name, "ConKI") else f"{name} ({about['label']})"


def _origin(about: Mapping[str, Any]) -> str:
    external = about["external"]
    return f"target {about['dataset']}, {f'external {external}' if external else 'no external data'}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _metric_table(card: Card, exported: Run, seeds: Sequence[int]) -> str:
    result = exported.seed_result(seeds[0])
    count = result.metrics.get("test", {}).get("n") if result is not None else None
    own = card.mean_prediction
    head = ["metric", f"test split{f', n = {count:.0f}' if count else ''}", *(["mean prediction"] if own else [])]
    rows = [_row(head), "|---" * len(head) + "|"]
    for name, (mean, std) in _measured(exported).items():
        spread = f" ± {std:.3f}" if math.isfinite(std) else ""
        rows.append(_row([_named(name, card), f"{mean:.3f}{spread}", *([_cell(own.get(name))] if own else [])]))
    median = exported.record.median
    constant = median.metrics.get("test", {}).get("mae") if median else None
    if constant is not None:
        cells = ["MAE of predicting the training median", f"{constant:.3f}", *([f"{constant:.3f}"] if own else [])]
        rows.append(_row(cells))
    told = [f"{card.about['dataset']}, mean over the seeds; accuracies and F1 are shares."]
    if own:
        told.append("The last column measures each clip's mean prediction over the seeds, which this folder gives.")
    return f"## How good it is\n\n{' '.join(told)}\n\n" + "\n".join(rows) + "\n"


def _cell(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _inputs(about: Mapping[str, Any]) -> str:
    """Describe what the model reads: encoder and features, and the files that these came from."""
    lines = ["## What it reads\n"]
    if "text" in about["modalities"]:
        lines.append(f"* text: tokens of the text encoder {_code(about['text_encoder']['name'])}")
    for name, width in about["widths"].items():
        lines.append(f"* {name}: {width} features per frame, at most {about['positions'][name]} frames")
    for dataset, source in about["sources"].items():
        known = [f"content {source['content'][:12]}"]
        if "format" in source:
            known += [f"format {_code(source['format'])}", f"normalisation {source['normalization']}"]
            known += [f"SHA-256 of the source {source['sha256'][:12]}"]
        lines.append(f"* features of {dataset}: {', '.join(known)}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return a line in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", one_line(text))


def _code(text: str) -> str:
    """Return a name as inline code that ends where it should, whatever the name holds."""
    shown = one_line(text)[:80].replace("`", "'").replace("|", "/")
    return f"`{shown}`"
