"""Check a corpus before it becomes a store: refuse contradictions, leave out wrong clips, warn about the rest.

This reads only ids, texts, scores and the shapes of the frames.
"""

import dataclasses
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import Any

import numpy as np

from conki_cli import MODALITIES
from conki_cli.data.store.orientation import looks_transposed, upright
from conki_cli.data.store.records import (
    FRAME_MODALITIES,
    SPLITS,
    Corpus,
    Sample,
    counted,
    in_range,
    is_unicode,
    video_of,
)
from conki_cli.datasets import DATASETS, sizes_of
from conki_cli.system.errors import SourceError
from conki_cli.system.readable import human_size

MAX_LEFT_OUT = 0.05
"""If more clips than this share have impossible scores, the score range or the file is wrong."""
MAX_GROWTH = 64
"""A file may declare this many times its own size; more than that means shared references or compressed bombs."""
FREE_BYTES = 64 * 2**20
"""... and this much in addition, for small files."""
MANY_SHARED_TEXTS = 0.2
"""If more clips than this share have the text of another clip, the texts are probably wrong; MOSEI has 1 %."""

_NAMED = 10  # ids that a warning names


@dataclass(frozen=True, eq=False)
class Checked:
    """A checked corpus, ready to be written.

    Attributes:
        corpus: without the clips that were left out; every clip has frames, perhaps none, of each modality in `widths`.
        widths: features per frame of each modality that has frames, in the paper's order.
        warnings: warnings of the reader and of these checks.
        report: the report of `conki prepare`, ready for JSON; see `report_of`.
    """

    corpus: Corpus
    widths: Mapping[str, int]
    warnings: tuple[str, ...]
    report: Mapping[str, Any]


@dataclass
class _Findings:
    """The findings so far, as sentences and as data."""

    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def check(corpus: Corpus) -> Checked:
    """Check a corpus.

    Clips with impossible scores and repeated clips are left out, unimodal scores that are not complete are dropped, and
    clips without a modality get empty frames; each of these is a warning.

    Raises:
        SourceError: the corpus contradicts itself (the message names the first such clip), or declares far more than
            its file can hold.
    """
    for split in SPLITS:
        if not corpus.splits.get(split) and not corpus.unlabelled:
            raise SourceError(
                f"{corpus.source}: the split {split!r} must have at least one clip, found none "
                "(clips to be scored need no splits: --unlabelled)"
            )
    _check_size(corpus)
    _check_texts(corpus)
    corpus, turned = upright(corpus)
    widths = {m: width for m in FRAME_MODALITIES if (width := _width_of(corpus, m)) is not None}
    found = _Findings(warnings=[*corpus.notes, *turned])
    splits = _without_repetitions(corpus, _with_scores(corpus, found), found)
    for split in SPLITS:
        if not splits[split] and not corpus.unlabelled:
            raise SourceError(f"{corpus.source}: no clip of the split {split!r} is left", "correct its scores")
    splits = _with_common_scores(corpus, splits, found)
    splits = _with_frames(corpus, splits, widths, found)
    _compare_texts(splits, found)
    if not corpus.unlabelled:
        _compare_scores(splits, found)
        _compare_splits(corpus, splits, found)
    kept = dataclasses.replace(corpus, splits=splits, remarks=(*corpus.remarks, *found.remarks))
    return Checked(kept, widths, tuple(found.warnings), report_of(kept, widths, found.data))


def report_of(corpus: Corpus, widths: Mapping[str, int], found: Mapping[str, Any]) -> dict[str, Any]:
    """Build the report of `conki prepare` about a checked corpus.

    Returns:
        `format`; `padding` per modality; `padding_share`: the share of padding if every clip were padded to the longest
        one; `remarks`; `texts`, if any were damaged; and the findings `left_out`, `without_frames`,
        `unimodal_left_out`, `empty_texts`, `repeated_texts`.
    """
    samples = list(chain.from_iterable(corpus.splits[split] for split in SPLITS))
    shares = {}
    for modality in widths:
        lengths = [getattr(sample, modality).shape[0] for sample in samples]
        shares[modality] = 1 - sum(lengths) / max(1, len(lengths) * max(lengths))
    return {
        "format": corpus.source_format,
        "padding": dict(corpus.padding),
        "padding_share": shares,
        "remarks": list(corpus.remarks),
        **({"texts": dict(corpus.repaired["text"])} if corpus.repaired.get("text") else {}),
        **found,
    }


def _clips(count: int) -> str:
    return counted(count, "clip")


def _some(names: Sequence[str]) -> str:
    """Name the first few, shortened: ids from a file may have any length."""
    shown = [name[:60] for name in names[:_NAMED]]
    return ", ".join([*shown, "..."] if len(names) > len(shown) else shown)


def _counted(ids: Sequence[str]) -> dict[str, Any]:
    return {"count": len(ids), "ids": [name[:60] for name in ids[:_NAMED]]}


def _samples(corpus: Corpus) -> Iterator[Sample]:
    return chain.from_iterable(corpus.splits[split] for split in SPLITS)


def _check_size(corpus: Corpus) -> None:
    # Only cheap checks: a million clips may share one text of a gigabyte.
    declared = sum(len(sample.id) + len(sample.text) for sample in _samples(corpus))
    for sample in _samples(corpus):
        frames = (sample.vision, sample.audio)
        declared += sum(4 * math.prod(part.shape) for part in frames if part is not None)
    if corpus.source_bytes > 0 and declared > MAX_GROWTH * corpus.source_bytes + FREE_BYTES:
        raise SourceError(
            f"{corpus.source}: clips may declare at most {MAX_GROWTH} times the size of their file, but they declare "
            f"{human_size(declared)} in a file of {human_size(corpus.source_bytes)}: it is damaged or hostile"
        )


def _check_texts(corpus: Corpus) -> None:
    for number, sample in enumerate(_samples(corpus), start=1):
        if not sample.id:
            raise SourceError(f"{corpus.source}: every clip must have an id, clip {number} has none")
        for name, text in (("id", sample.id), ("text", sample.text)):
            if "\0" in text or not is_unicode(text):
                raise SourceError(
                    f"{corpus.source}: the {name} of {sample.id[:60]!r} has characters that are not valid text"
                )
        if (control := next(filter(_is_control, sample.id), None)) is not None:
            raise SourceError(
                f"the control character U+{ord(control):04X} in {sample.id[:60]!r}",
                "rename that clip in the source",
                must=f"{corpus.source}: the id of a clip must be printable",
            )


def _is_control(character: str) -> bool:
    """Say whether a character controls a terminal or breaks a line instead of being shown."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def _width_of(corpus: Corpus, modality: str) -> int | None:
    """Return the number of features per frame of all clips with frames; None if no clip has a frame."""
    widths: dict[int, tuple[int, Sample]] = {}  # number of clips with this width, and the first of them
    shapes: list[tuple[int, int]] = []
    for sample in _samples(corpus):
        frames = getattr(sample, modality)
        if frames is None or (frames.shape and not frames.shape[0]):
            continue
        if len(frames.shape) != 2 or not frames.shape[1]:
            raise SourceError(
                f"{corpus.source}: {modality} of {_named_with_file(sample, modality)} must be numbers "
                f"[frames, features], found the shape {tuple(frames.shape)}"
            )
        shapes.append((int(frames.shape[0]), int(frames.shape[1])))
        count, first = widths.get(shapes[-1][1], (0, sample))
        widths[shapes[-1][1]] = count + 1, first
    if len(widths) > 1:
        raise SourceError(f"{corpus.source}: {_unequal_widths(modality, widths, shapes)}")
    return next(iter(widths), None)


def _unequal_widths(modality: str, widths: Mapping[int, tuple[int, Sample]], shapes: Sequence[tuple[int, int]]) -> str:
    usual = max(widths, key=lambda width: widths[width][0])
    odd, (_, sample) = next((width, found) for width, found in widths.items() if width != usual)
    hint = ""
    if looks_transposed(shapes):
        hint = "; if rows are features and columns are frames, save the arrays transposed (array.T)"
    return (
        f"{modality} must have {usual} features per frame everywhere, {_named_with_file(sample, modality)} has {odd}"
        f"{hint}"
    )


def _named_with_file(sample: Sample, modality: str) -> str:
    """Name a clip, and the file with only its frames if there is one."""
    path = getattr(getattr(sample, modality), "path", None)
    return f"{sample.id[:60]!r}" + (f" ({path})" if path is not None else "")


Splits = dict[str, list[Sample]]


def _with_scores(corpus: Corpus, found: _Findings) -> Splits:
    """Leave out the clips whose score is not a number in the range; refuse the corpus if there are many."""
    if corpus.unlabelled:
        return {split: list(corpus.splits[split]) for split in SPLITS}
    low, high = corpus.score_range
    wrong = [sample for sample in _samples(corpus) if not in_range(sample.score, corpus.score_range)]
    total = sum(len(corpus.splits[split]) for split in SPLITS)
    if len(wrong) > MAX_LEFT_OUT * total:  # among fewer than 20 clips, one is too many
        finite = [sample.score for sample in _samples(corpus) if math.isfinite(sample.score)]
        span = f", all scores are between {min(finite):g} and {max(finite):g}" if finite else ", none has a score"
        advice = _score_advice(corpus.dataset) if finite else "give --unlabelled if the clips are to be scored"
        raise SourceError(
            f"{corpus.source}: scores must be numbers from {low:g} to {high:g}, {wrong[0].id[:60]!r} has "
            f"{wrong[0].score:g} ({len(wrong)} of {_clips(total)}{span}): {advice}"
        )
    if wrong:
        named = _some([f"{sample.id[:60]} has {sample.score:g}" for sample in wrong])
        found.warnings.append(
            f"{_clips(len(wrong))} left out: the score is not a number from {low:g} to {high:g} ({named})"
        )
        found.data.setdefault("left_out", {})["score"] = _counted([sample.id for sample in wrong])
    return {s: [one for one in corpus.splits[s] if in_range(one.score, corpus.score_range)] for s in SPLITS}


def _score_advice(dataset: str) -> str:
    if dataset in DATASETS:
        return f"if this is not {dataset}, give another --dataset; otherwise correct the labels"
    return "correct the labels or give the right --score-range"


def _without_repetitions(corpus: Corpus, splits: Splits, found: _Findings) -> Splits:
    """Leave out repeated clips with the same text, score and split; refuse other repeated ids."""
    first: dict[str, tuple[str, Sample]] = {}
    repeated: list[str] = []
    kept: Splits = {split: [] for split in SPLITS}
    for split in SPLITS:
        for sample in splits[split]:
            if sample.id not in first:
                first[sample.id] = (split, sample)
                kept[split].append(sample)
                continue
            where, before = first[sample.id]
            same_score = before.score == sample.score or corpus.unlabelled
            if where != split or before.text != sample.text or not same_score:
                raise SourceError(
                    f"{corpus.source}: ids must be unique, {sample.id[:60]!r} occurs twice "
                    f"({_difference(where, before, split, sample)})",
                    "rename or remove one",
                )
            repeated.append(sample.id)
    if repeated:
        found.warnings.append(
            f"{_clips(len(repeated))} left out: a clip with the same id, text and score came before ({_some(repeated)})"
        )
        found.data.setdefault("left_out", {})["repeated"] = _counted(repeated)
    return kept


def _difference(where: str, before: Sample, split: str, sample: Sample) -> str:
    if where != split:
        return f"in {where} and in {split}"
    if before.text != sample.text:
        return f"in {split}, with two texts"
    return f"in {split}, with the scores {before.score:g} and {sample.score:g}"


def _with_common_scores(corpus: Corpus, splits: Splits, found: _Findings) -> Splits:
    """Keep the unimodal scores that every clip has as a number in the range."""
    samples = [sample for split in SPLITS for sample in splits[split]]
    names = {name for sample in samples for name in sample.unimodal}
    if not names <= set(MODALITIES):
        raise SourceError(f"{corpus.source}: unimodal scores must belong to {', '.join(MODALITIES)}, found others")
    dropped = []
    for name in sorted(names, key=MODALITIES.index):
        wrong = [s.id for s in samples if not in_range(s.unimodal.get(name, math.nan), corpus.score_range)]
        if wrong:
            low, high = corpus.score_range
            found.warnings.append(
                f"the {name} scores left out: for {_clips(len(wrong))} they are not numbers from {low:g} to {high:g} "
                f"({_some(wrong)})"
            )
            dropped.append(name)
    if not dropped:
        return splits
    found.data["unimodal_left_out"] = dropped

    def without(sample: Sample) -> Sample:
        kept = {name: score for name, score in sample.unimodal.items() if name not in dropped}
        return dataclasses.replace(sample, unimodal=kept)

    return _each(splits, without)


def _with_frames(corpus: Corpus, splits: Splits, widths: Mapping[str, int], found: _Findings) -> Splits:
    """Give empty frames to clips without a modality; drop a modality that no clip has."""
    samples = [sample for split in SPLITS for sample in splits[split]]
    missing: dict[str, dict[str, Any]] = {}
    for modality in FRAME_MODALITIES:
        without = [s.id for s in samples if (f := getattr(s, modality)) is None or not f.shape[0]]
        if modality in widths and without:
            found.warnings.append(f"{_clips(len(without))} without {modality} ({_some(without)})")
            missing[modality] = _counted(without)
            lacking = set(without)
            found.warnings.extend(
                f"no clip of the split {split!r} has {modality}"
                for split in SPLITS
                if splits[split] and lacking.issuperset(sample.id for sample in splits[split])
            )
        elif modality not in widths and any(getattr(sample, modality) is not None for sample in samples):
            found.warnings.append(f"{modality} left out: no clip has a frame of it")
    if missing:
        found.data["without_frames"] = missing

    def complete(sample: Sample) -> Sample:
        changes: dict[str, Any] = {}
        for modality in FRAME_MODALITIES:
            frames = getattr(sample, modality)
            if modality in widths and (frames is None or not frames.shape[0]):
                changes[modality] = np.empty((0, widths[modality]), dtype=np.float32)
            elif modality not in widths and frames is not None:
                changes[modality] = None
        return dataclasses.replace(sample, **changes) if changes else sample

    return _each(splits, complete)


def _each(splits: Splits, change: Callable[[Sample], Sample]) -> Splits:
    return {split: [change(sample) for sample in samples] for split, samples in splits.items()}


def _compare_scores(splits: Splits, found: _Findings) -> None:
    scores = {sample.score for samples in splits.values() for sample in samples}
    if len(scores) == 1 and sum(map(len, splits.values())) > len(SPLITS):
        found.warnings.append(
            f"all scores are {min(scores):g}, so there is nothing to learn: check that this is the right column"
        )


def _compare_texts(splits: Splits, found: _Findings) -> None:
    texts = {split: Counter(sample.text for sample in splits[split]) for split in SPLITS}
    empty = sum(count for counts in texts.values() for text, count in counts.items() if not text.strip())
    if empty:
        found.warnings.append(f"{_clips(empty)} with an empty text; they were kept")
    counts = Counter(text for part in texts.values() for text in part.elements() if text.strip())
    repeated = [text for text, count in counts.items() if count > 1]
    across = sum(sum(text in part for part in texts.values()) > 1 for text in repeated)
    sharing = sum(counts[text] for text in repeated)
    if repeated:
        many = sharing > MANY_SHARED_TEXTS * sum(map(len, splits.values()))
        line = f"{_clips(sharing)} share their text with another clip: {counted(len(repeated), 'text')}"
        line += f", {across} of them in two splits"
        (found.warnings if many else found.remarks).append(
            f"{line}; check that these are the right texts" if many else line
        )
    repetitions = {"count": len(repeated), "clips": sharing, "across_splits": across}
    found.data.update(empty_texts=empty, repeated_texts=repetitions)


def _compare_splits(corpus: Corpus, splits: Splits, found: _Findings) -> None:
    videos = {split: {video_of(sample.id) for sample in splits[split]} for split in SPLITS}
    sizes, published = tuple(len(splits[split]) for split in SPLITS), sizes_of(corpus.dataset)
    for one, other in combinations(SPLITS, 2):
        if shared := len(videos[one] & videos[other]):
            line = f"{one} and {other} share {counted(shared, 'video')}: they are not independent of each other"
            # Published splits that do so, such as SIMS's, are what everybody compares with: not the file's fault.
            (found.remarks if sizes == published else found.warnings).append(line)
    if published is not None and sizes != published:
        found.warnings.append(
            f"{'/'.join(map(str, sizes))} clips in {'/'.join(SPLITS)}, published are "
            f"{'/'.join(map(str, published))}: results are not comparable with the paper's"
        )
