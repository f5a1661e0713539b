"""The demo corpora: small synthetic data sets that test the claim of ConKI honestly.

Every sentence praises or blames with words of a private vocabulary: 48 adjectives that are neutral in English and get
an invented sentiment here. The target's training split uses 24 of them, its other splits all 48, so the meaning of half
of the test words can only be learned from the external corpus. Intensifiers and negation work the same way in both. The
rest of a score is hidden in the audio and vision frames, which also reflect the words a little, as a voice does:

    score = clip(words + 0.4 heard + 0.4 seen + 0.1 noise, -3, 3), rounded to a multiple of 0.2
    words = sum over one or two clauses of valence (0.6 or 1.2, either sign) * intensifier * (-0.8 when negated)
    signal in the audio frames = heard + 0.15 words, in the vision frames seen + 0.15 words

The two corpora have different topics, share no sentence, and differ in frame widths as MOSI and MOSEI do. Only
additions, multiplications and NumPy's seeded generator are used, so every machine makes the same clips.

Two further external corpora exist to be used together: each has the 24 words of the target's training split and
half of those that it lacks, so each teaches what the other does not. `demo-external-b` is scored from -1 to 1.

Axes: L frames of a clip, d features per frame.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.records import ID_SEPARATOR, Corpus, Sample

_GENERATOR = "conki demo corpora, version 1"  # increase it whenever a clip changes: it identifies the data
_SEED = 2023

_WORDS_BY_VALENCE = {
    1.2: "tubular nasal coral zonal ceramic postal | polar maritime striped annual optical conical",
    0.6: "fluvial modular pleated lateral amber urban | cubic botanical tidal vocal metallic weekly",
    -0.6: "diagonal oblong dental solar alpine nautical | granular beige spiral coastal thermal magnetic",
    -1.2: "woolen hexagonal marine numeric rural lunar | turquoise dorsal cylindrical verbal knitted aerial",
}
"""The valence of the opinion words; the target's training split uses those left of the bar. Drawn once at random."""

_VALENCES = {word: value for value, words in _WORDS_BY_VALENCE.items() for word in words.replace("|", " ").split()}
_UNTAUGHT = [words.partition("|")[2].split() for words in _WORDS_BY_VALENCE.values()]
_TAUGHT_BY_TARGET = [word for words in _WORDS_BY_VALENCE.values() for word in words.partition("|")[0].split()]
_TAUGHT_BY_A = [*_TAUGHT_BY_TARGET, *(word for words in _UNTAUGHT for word in words[:3])]
_TAUGHT_BY_B = [*_TAUGHT_BY_TARGET, *(word for words in _UNTAUGHT for word in words[3:])]
OPINION_WORDS = tuple(sorted(_VALENCES))

_INTENSIFIERS = {"": 1.0, "slightly": 0.5, "very": 1.4}
_INTENSIFIER_SHARES = (0.6, 0.15, 0.25)
_NEGATED = -0.8
_NEGATED_SHARE = 0.1
_TWO_CLAUSES_SHARE = 0.45
_ECHO = 0.15
_PLANTED = 0.4  # added to a score per standard deviation of the audio or vision signal
_NOISE = 0.1

_COPULAS = {"was": "was never", "felt": "never felt"}
_OPENERS = ("", "", "honestly , ", "i think ", "overall , ")
_JOINTS = (" and ", " , but ")
_DAYS = ("monday", "friday", "sunday")


@dataclass(frozen=True)
class _Theme:
    """The topics of a corpus."""

    topics: tuple[str, ...]
    makers: tuple[str, ...]
    verbs: tuple[str, ...]
    products: tuple[str, ...]
    aside: str


@dataclass(frozen=True)
class _Plan:
    """One corpus: its theme, its clips per split, its frame widths, and the words its training split may use."""

    number: int
    theme: _Theme
    sizes: tuple[int, int, int]
    audio_width: int
    vision_width: int
    train_words: Sequence[str]
    other_words: Sequence[str] = OPINION_WORDS
    """Those of its validation and test splits."""
    highest: float = 3.0
    """Scores lie between this and its negative."""


_SHARED_TOPICS = ("it", "this one", "the first part", "the rest")
_FILMS = _Theme(
    topics=("the plot", "the ending", "the acting", "the story", *_SHARED_TOPICS),
    makers=("the writers", "the actors", "they"),
    verbs=("made", "showed", "had"),
    products=("scenes", "songs", "things"),
    aside=" , we watched it on ",
)
_ERRANDS = _Theme(
    topics=("the hotel", "the soup", "the garden", "the train", *_SHARED_TOPICS),
    makers=("the clerks", "the drivers", "they"),
    verbs=("offered", "sold", "had"),
    products=("rooms", "tickets", "things"),
    aside=" , we went there on ",
)
_OUTINGS = _Theme(  # in words that the demo's encoder knows
    topics=("the train", "the garden", "the story", "the acting", *_SHARED_TOPICS),
    makers=("the drivers", "the actors", "they"),
    verbs=("offered", "showed", "had"),
    products=("songs", "tickets", "things"),
    aside=" , we went there on ",
)
_TARGET = _Plan(0, _FILMS, (160, 100, 300), audio_width=5, vision_width=8, train_words=_TAUGHT_BY_TARGET)
_EXTERNAL = _Plan(1, _ERRANDS, (1200, 100, 100), audio_width=12, vision_width=10, train_words=OPINION_WORDS)
_EXTERNAL_A = _Plan(3, _ERRANDS, (600, 100, 100), 12, 10, train_words=_TAUGHT_BY_A, other_words=_TAUGHT_BY_A)
_EXTERNAL_B = _Plan(4, _OUTINGS, (600, 100, 100), 5, 14, _TAUGHT_BY_B, other_words=_TAUGHT_BY_B, highest=1.0)


def demo_corpus(draw: int = _SEED) -> Corpus:
    """Make the target corpus `demo`: 160, 100 and 300 clips about films, audio width 5, vision width 8.

    Args:
        draw: seed of the clips; another one shows whether a result depends on these particular clips.
    """
    return _corpus("demo", _TARGET, draw, used=set())


def demo_external_corpus(draw: int = _SEED) -> Corpus:
    """Make the external corpus `demo-external`: 1200, 100 and 100 clips about errands, audio width 12, vision 10.

    Args:
        draw: the seed of the target corpus, with which it shares no sentence.
    """
    return _corpus("demo-external", _EXTERNAL, draw, used=_texts_of(demo_corpus(draw)))


def demo_external_a_corpus(draw: int = _SEED) -> Corpus:
    """Make the external corpus `demo-external-a`: 600, 100 and 100 clips about errands, with 36 opinion words.

    Args:
        draw: the seed of the target corpus, with which it shares no sentence.
    """
    return _corpus("demo-external-a", _EXTERNAL_A, draw, used=_texts_of(demo_corpus(draw)))


def demo_external_b_corpus(draw: int = _SEED) -> Corpus:
    """Make the external corpus `demo-external-b`: 600, 100 and 100 clips about outings, with 36 opinion words.

    Its scores lie between -1 and 1.

    Args:
        draw: the seed of the corpora with which it shares no sentence, the target and `demo-external-a`.
    """
    used = _texts_of(demo_corpus(draw)) | _texts_of(demo_external_a_corpus(draw))
    return _corpus("demo-external-b", _EXTERNAL_B, draw, used=used)


GENERATED: Mapping[str, Callable[[], Corpus]] = {
    "demo": demo_corpus,
    "demo-external": demo_external_corpus,
    "demo-external-a": demo_external_a_corpus,
    "demo-external-b": demo_external_b_corpus,
}
"""What makes each generated data set."""


def _texts_of(corpus: Corpus) -> set[str]:
    return {sample.text for split in corpus.splits.values() for sample in split}


def encoder_sentences() -> list[str]:
    """List the sentences that the demo's small BERT is pretrained on; they carry no polarity.

    A third are sentences like those of the corpora, with plain adjectives instead of opinion words. Opinion words are
    only mentioned, never used: somebody writes or reads them. Every frame of a mention is filled with each of them once
    (once per place if it has two), so nothing but its name distinguishes one opinion word from another.
    """
    rng = np.random.default_rng([_SEED, 2])
    adjectives = _endless_deck(rng, _PLAIN_ADJECTIVES)
    plain = [_sentence(rng, theme, adjectives)[0] for theme in (_FILMS, _ERRANDS) * (_NUM_PLAIN // 2)]
    count = len(OPINION_WORDS)
    mentions = []
    for number in range(_NUM_FRAMES):
        frame = _mention_frame(rng, (_FILMS, _ERRANDS)[number % 2], adjectives)
        others = [OPINION_WORDS[(index + 1 + number) % count] for index in range(count)]
        mentions += [frame.format(word, other) for word, other in zip(OPINION_WORDS, others, strict=True)]
    return plain + mentions


_NUM_PLAIN = 2400
_NUM_FRAMES = 96  # times 48 words
_READERS = ("she", "he", "the teacher", "a clerk")
_READING = ("typed", "read", "copied", "spelled", "printed", "found", "listed", "marked")
_MENTIONS = ("{0}", "the word {0}", "{0} twice", "a line with {0}", "{0} and {1}", "{0} , then {1}", "{0} below {1}")
_MANNERS = ("", "", " very slowly", " slightly later", " , but only today")
_POSITIONS = (" beside ", " above ", " behind ")
_PLAIN_ADJECTIVES = ("late", "early", "short", "long", "small", "large", "near", "open", "new", "old", "wide", "round")


def _mention_frame(rng: np.random.Generator, theme: _Theme, adjectives: Iterator[str]) -> str:
    """Draw a sentence with room for one or two opinion words that does not reveal what they describe."""
    reader = _one_of(rng, _READERS + theme.makers)
    frame = f"{reader} {_one_of(rng, _READING)} {_one_of(rng, _MENTIONS)}{_one_of(rng, _MANNERS)}"
    if rng.random() < 0.5:
        frame += _one_of(rng, _POSITIONS) + _one_of(rng, (*theme.topics, *theme.products))
    if rng.random() < 0.4:
        parts = [frame, _clause(rng, theme, next(adjectives))[0]]
        frame = _one_of(rng, _JOINTS).join(parts if rng.random() < 0.5 else parts[::-1])
    elif rng.random() < 0.3:
        frame += theme.aside + _one_of(rng, _DAYS)
    return _one_of(rng, _OPENERS) + frame


def _corpus(dataset: str, plan: _Plan, draw: int, *, used: set[str]) -> Corpus:
    patterns = np.random.default_rng([draw, plan.number, 9])
    audio_pattern, vision_pattern = (_pattern(patterns, width) for width in (plan.audio_width, plan.vision_width))
    splits = {}
    for number, (name, size) in enumerate(zip(("train", "valid", "test"), plan.sizes, strict=True)):
        rng = np.random.default_rng([draw, plan.number, number])
        words = _endless_deck(rng, plan.train_words if name == "train" else plan.other_words)
        splits[name] = [
            _scaled(_clip(rng, text, valence, (audio_pattern, vision_pattern), place), plan.highest)
            for place, (text, valence) in zip(
                _places(rng, f"{dataset}-{name}", size), _new_sentences(rng, plan.theme, words, used), strict=False
            )
        ]
    return Corpus(
        dataset=dataset,
        score_range=(-plan.highest, plan.highest),
        splits=splits,
        source="built in",
        source_format="built in",
        source_sha256=hashlib.sha256(f"{_GENERATOR}, seed {draw}, {dataset}".encode()).hexdigest(),
    )


def _endless_deck(rng: np.random.Generator, words: Sequence[str]) -> Iterator[str]:
    """Yield the words in shuffled rounds, so that all occur about equally often."""
    while True:
        for index in rng.permutation(len(words)):
            yield words[index]


def _new_sentences(
    rng: np.random.Generator, theme: _Theme, words: Iterator[str], used: set[str]
) -> Iterator[tuple[str, float]]:
    """Yield sentences that are not in any split yet, with the part of the score that they express."""
    while True:
        text, valence = _sentence(rng, theme, words)
        if text not in used:
            used.add(text)
            yield text, valence


def _sentence(rng: np.random.Generator, theme: _Theme, words: Iterator[str]) -> tuple[str, float]:
    text, valence = _clause(rng, theme, next(words))
    if rng.random() < _TWO_CLAUSES_SHARE:
        second, second_valence = _clause(rng, theme, next(words))
        text, valence = text + _one_of(rng, _JOINTS) + second, valence + second_valence
    elif rng.random() < 0.3:
        text += theme.aside + _one_of(rng, _DAYS)
    return _one_of(rng, _OPENERS) + text, valence


def _clause(rng: np.random.Generator, theme: _Theme, word: str) -> tuple[str, float]:
    """Make one clause about a topic or its makers; plain adjectives have no valence."""
    intensifier = str(rng.choice(list(_INTENSIFIERS), p=_INTENSIFIER_SHARES))
    is_negated = bool(rng.random() < _NEGATED_SHARE)
    praise = f"{intensifier} {word}".strip()
    if rng.random() < 0.6:
        copula = _one_of(rng, tuple(_COPULAS))
        text = f"{_one_of(rng, theme.topics)} {_COPULAS[copula] if is_negated else copula} {praise}"
    else:
        verb = ("never " if is_negated else "") + _one_of(rng, theme.verbs)
        text = f"{_one_of(rng, theme.makers)} {verb} {praise} {_one_of(rng, theme.products)}"
    return text, _VALENCES.get(word, 0.0) * _INTENSIFIERS[intensifier] * (_NEGATED if is_negated else 1.0)


def _one_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


@dataclass(frozen=True)
class _Place:
    """The place of a clip: its id, and the habits of its video's speaker and camera."""

    id: str
    audio_habit: float
    vision_habit: float


def _places(rng: np.random.Generator, prefix: str, count: int) -> Iterator[_Place]:
    """Divide `count` clips into videos of three to eight clips."""
    video = clip = 0
    num_clips, habits = int(rng.integers(3, 9)), rng.normal(0.0, 0.3, 2)
    for _ in range(count):
        if clip == num_clips:
            video, clip = video + 1, 0
            num_clips, habits = int(rng.integers(3, 9)), rng.normal(0.0, 0.3, 2)
        yield _Place(f"{prefix}-{video:03d}{ID_SEPARATOR}{clip}", float(habits[0]), float(habits[1]))
        clip += 1


def _clip(
    rng: np.random.Generator,
    text: str,
    valence: float,
    patterns: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    place: _Place,
) -> Sample:
    heard, seen, noise = (float(value) for value in rng.normal(size=3))
    score = min(3.0, max(-3.0, valence + _PLANTED * (heard + seen) + _NOISE * noise))
    seconds = 0.35 * len(text.split()) * (0.8 + 0.4 * rng.random())  # speaking and pausing
    return Sample(
        id=place.id,
        text=text,
        score=round(5 * score) / 5,
        audio=_frames(
            rng, min(60, max(10, round(9 * seconds))), heard + _ECHO * valence, patterns[0], place.audio_habit
        ),
        vision=_frames(
            rng, min(40, max(8, round(6.5 * seconds))), seen + _ECHO * valence, patterns[1], place.vision_habit
        ),
    )


def _scaled(clip: Sample, highest: float) -> Sample:
    """Return a clip with its score in another range than -3..3, rounded to five digits."""
    return clip if highest == 3.0 else replace(clip, score=round(clip.score * highest / 3.0, 5))


def _pattern(rng: np.random.Generator, width: int) -> npt.NDArray[np.float64]:
    """Choose how strongly each feature follows the planted signal; a third of them do not."""
    strengths = np.resize([0.8, -0.6, 0.0], width)
    return strengths[rng.permutation(width)]


def _frames(
    rng: np.random.Generator, length: int, signal: float, pattern: npt.NDArray[np.float64], habit: float
) -> npt.NDArray[np.float32]:
    """Draw the frames [L, d] of one clip: the signal grows to the middle and fades, over correlated noise."""
    noise = rng.normal(size=(length, len(pattern)))
    for step in range(1, length):
        noise[step] = 0.6 * noise[step - 1] + 0.8 * noise[step]  # unit variance, correlated over a few frames
    swell = 2.0 - 2.0 * np.abs(2.0 * np.arange(length) + 1.0 - length) / length  # [L], mean about 1
    frames: npt.NDArray[np.float64] = habit + noise + signal * swell[:, None] * pattern
    return frames.round(3).astype(np.float32)
