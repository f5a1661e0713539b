"""What a run was made with: its settings, stores, text encoder, stage 1, and whether it learnt."""

from collections import defaultdict
from collections.abc import Iterator

from conki_cli.runs.folders import Run
from conki_cli.runs.learning import doubts_about_learning
from conki_cli.runs.naming import digest_of
from conki_cli.runs.records import RunRecord
from conki_cli.runs.verifying.examined import ExaminedRun
from conki_cli.system.errors import one_line, quoted
from conki_cli.system.findings import (
    FAULT,
    REMARK,
    UNREAD,
    Finding,
    attempt,
    fact_of,
    fault,
    guarded,
    is_newer,
    is_unread,
)
from conki_cli.system.workspace import BUILT_IN_ENCODER
from conki_cli.text.verifying import verify_encoder
from conki_cli.text.vocabulary import DOUBTFUL


def verify_settings(examined: ExaminedRun) -> Iterator[Finding]:
    """Report config.toml and result.json where they cannot be read, and a config.toml that was changed."""
    run, subject, again = examined.run, examined.subject, examined.all_again()
    for name, error in (("config.toml", examined.bad_config), ("result.json", examined.bad_result)):
        path = run.path / name
        if error is not None and (is_unread(error, path) or path.exists()):
            advice = "install a newer conki" if is_newer(error) else f"restore {name} from a copy, or {again}"
            yield fault(subject, error, path, advice)
        elif error is not None:
            writes = "the command that made the run writes it again"
            yield Finding(
                subject, FAULT, f"{name} is missing", writes if name == "result.json" else f"restore it, or {again}"
            )
    if examined.config is None or examined.result is None:
        return
    config, made = examined.config, examined.result.digest
    now, error = attempt(digest_of, config)
    if now != made:
        encoder = config.model.text_encoder
        found = f"now give {now}" if now is not None else f"give none ({fact_of(error, run.path) if error else ''})"
        what = f"its settings gave the digest {one_line(made[:20])} and {found}: config.toml was changed"
        if encoder != BUILT_IN_ENCODER:
            what += f", or the text encoder {encoder} is another one or not here"
        advice = "restore config.toml and the encoder; until then the same command makes another run"
        yield Finding(subject, FAULT if encoder == BUILT_IN_ENCODER else REMARK, what, advice)


def verify_data(examined: ExaminedRun, result: RunRecord) -> Iterator[Finding]:
    """Compare the stores that a run was trained on with those of the workspace."""
    examination, is_finished = examined.examination, len(examined.finished) == len(examined.seeds)
    lost = "it cannot be continued"
    if is_finished:
        lost = "its training split cannot be predicted, nor further seeds trained"
    for dataset, content in result.data.items():
        path = examination.workspace.store(str(dataset))
        store = examined.stores.at(path)
        if store is not None and store.content_id == content:
            continue
        make = examination.command(f"prepare --dataset {quoted(dataset)}")
        if examined.stores.is_unread(path):
            what, advice = f"its store {path} could not be read", UNREAD
        elif not path.exists():
            what, advice = f"its store {path} is missing", f"make it again, from the same file: {make}"
        elif store is None:
            what, advice = f"its store {path} cannot be opened", f"make it again, from the same file: {make}"
        else:
            versions = f"{store.content_id[:12]}..., trained on {one_line(str(content)[:12])}..."
            what = f"its store {path} is another version: {versions}"
            advice = "restore that version, or train under a new --name"
        yield Finding(examined.subject, REMARK if is_finished else FAULT, f"{what}, so {lost}", advice)


def verify_encoder_files(examined: ExaminedRun) -> Iterator[Finding]:
    """Verify tokenizer and configuration of the text encoder; they must be there once a seed is finished."""
    folder, config = examined.run.path / "encoder", examined.config
    if not folder.exists() and not (examined.finished and config is not None and not config.dropped("T")):
        return
    source = f" of {config.model.text_encoder}" if config is not None else ""
    advice = f"restore configuration and tokenizer{source} there, or {examined.all_again()}"
    yield from guarded(folder, verify_encoder(folder, weights=False, advice=advice))


def verify_texts(examined: ExaminedRun) -> Iterator[Finding]:
    """Say where a run was trained on texts of which its text encoder knows too little."""
    texts = [result.texts for seed in examined.finished if (result := examined.run.seed_result(seed)) is not None]
    shares = {split: float(counts["unknown_share"]) for found in texts for split, counts in found.items()}
    doubtful = [f"{100 * share:.1f} % in {split}" for split, share in shares.items() if share >= DOUBTFUL]
    if doubtful:
        what = f"many tokens of its texts are unknown to its text encoder: {', '.join(doubtful)}"
        advice = "train with an encoder of the texts' language and its own tokenizer, or lowercase texts if it is cased"
        yield Finding(examined.subject, REMARK, what, advice)


def verify_stage_one(examined: ExaminedRun) -> Iterator[Finding]:
    """Say where the run is gone that a seed started from."""
    lost = defaultdict(list)
    for seed in examined.finished:
        result = examined.run.seed_result(seed)
        name = result.stage_1 if result is not None else None
        if name is None:
            continue
        first = Run(examined.examination.workspace.runs / name)
        if attempt(first.seed_result, seed)[0] is None:
            lost[name].append(str(seed))
    for name, seeds in lost.items():
        named = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
        what = f"the stage-1 run {name} that {named} started from is not there, or not finished"
        advice = "nothing for finished seeds; further seeds train stage 1 again"
        yield Finding(examined.subject, REMARK, what, advice)


def verify_learning(examined: ExaminedRun) -> Iterator[Finding]:
    """Say which finished seeds did not learn, or may not have finished learning."""
    for fact, advice in attempt(doubts_about_learning, examined.run, examined.finished)[0] or ():
        yield Finding(examined.subject, REMARK, fact, advice)
