"""Context of a clip: the texts of its video's neighbouring clips, as the second segment of its token ids.

A clip reads [CLS] own text [SEP] context [SEP], each encoder with its own special tokens. The context is in the order
of the video. If it exceeds the length limit, the words farthest from the clip are left out first; the clip's own text
is truncated only where it would be without a context.

Axes: L tokens of a clip with its context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.order import videos_in_order
from conki_cli.data.store.records import Utterances
from conki_cli.system.errors import EncoderError, StoreError
from conki_cli.text.folders import quiet
from conki_cli.text.tokens import tokenize

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_TokenIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """How many neighbouring clips of the same video and split are read with a clip."""

    before: int = 0
    after: int = 0

    @classmethod
    def of(cls, config: RunConfig) -> "Context":
        """Return the context that a configuration asks for."""
        return cls(config.data.context, config.data.context_after)

    def __bool__(self) -> bool:
        return bool(self.before or self.after)

    def neighbours(self, clips: Utterances) -> list[tuple[list[int], list[int]]]:
        """Return the rows before and after every clip, each list from the nearest to the farthest.

        They are rows of the whole split, of which `clips` may be a part.
        """
        whole = clips.whole or clips
        found: list[tuple[list[int], list[int]]] = [([], [])] * len(whole)
        for rows in videos_in_order(whole):
            for place, row in enumerate(rows):
                before = rows[max(0, place - self.before) : place]
                found[row] = before[::-1], rows[place + 1 : place + 1 + self.after]
        return found if clips.picked is None else [found[row] for row in clips.picked]

    def check(self, clips: Utterances) -> None:
        """Refuse a split in which no clip has a neighbour: the setting would have no effect.

        Raises:
            StoreError: no video has two clips.
        """
        if self and not any(before or after for before, after in self.neighbours(clips)):
            raise StoreError(
                f"data.context needs several clips of one video in a split, but the {clips.split} split of "
                f"{clips.path} has one clip of every video (ids are video$_$clip)",
                advice="leave data.context and data.context_after at 0, or prepare the data with the videos' ids",
            )


def tokenize_with_context(
    tokenizer: "PreTrainedTokenizerBase", clips: Utterances, context: Context, *, max_length: int
) -> tuple[list[_TokenIds], int]:
    """Turn clips and their contexts into token ids.

    Args:
        tokenizer: that of the text encoder.
        clips: clips of a split; those that `Utterances.limited` leaves out can still be contexts.
        context: which neighbours are read.
        max_length: largest number of tokens.

    Returns:
        One int64 array [L] per clip, and how many contexts were truncated.

    Raises:
        EncoderError: the tokenizer takes no second segment.
    """
    pair, whole, neighbours = _Pair.of(tokenizer), clips.whole or clips, context.neighbours(clips)
    wanted = sorted({row for parts in neighbours for part in parts for row in part})
    texts = [f" {whole.texts[row]}" for row in wanted]  # a blank, because byte-level tokenizers keep it in the word
    ids = dict(zip(wanted, map(pair.without_separators, _bare(tokenizer, texts)), strict=True))
    found, num_cut = [], 0
    for parts, alone in zip(neighbours, tokenize(tokenizer, clips.texts, max_length=max_length)[0], strict=True):
        own = pair.without_separators(alone[pair.leading : len(alone) - pair.trailing])
        before, after = ([ids[row] for row in part] for part in parts)
        kept = _nearest(before, after, max_length - len(pair.joined(own, [])))
        num_cut += len(kept) < sum(map(len, (*before, *after)))
        found.append(pair.joined(own, kept) if len(kept) else pair.alone(own, alone))
    return found, num_cut


def separator_of(
    tokenizer: "PreTrainedTokenizerBase | None", encoder: "PretrainedConfig", context: Context
) -> int | None:
    """Return the token after which an encoder's second token type begins; None if it reads no second type."""
    if tokenizer is None or not context or (getattr(encoder, "type_vocab_size", None) or 0) < 2:
        return None
    separator: int | None = tokenizer.sep_token_id
    return separator


@dataclass(frozen=True)
class _Pair:
    """The special tokens of a tokenizer around and between two segments."""

    first: list[int]
    middle: list[int]
    last: list[int]
    leading: int
    """Special tokens before a text without a context."""
    trailing: int
    separator: int | None

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "_Pair":
        """Read them off a sample.

        Raises:
            EncoderError: the tokenizer takes no second segment.
        """
        one, other = (row.tolist() for row in _bare(tokenizer, ["a", "b"]))
        with quiet():
            alone, both = (list(tokenizer(*texts)["input_ids"]) for texts in (("a",), ("a", "b")))
        places, starts, ends = _places(one, alone), _places(one, both), _places(other, both)
        if not (one and other and places and starts and ends and starts[0] + len(one) < ends[-1]):
            raise EncoderError(
                "data.context needs a tokenizer that joins two segments, but this one does not",
                "choose another --encoder, or leave data.context at 0",
            )
        begin, end = starts[0] + len(one), ends[-1]
        return cls(
            both[: starts[0]],
            both[begin:end],
            both[end + len(other) :],
            places[0],
            len(alone) - places[0] - len(one),
            tokenizer.sep_token_id,
        )

    def without_separators(self, ids: _TokenIds) -> _TokenIds:
        """Leave out separators that a text itself writes: only ours divide the segments."""
        return ids if self.separator is None else ids[ids != self.separator]

    def joined(self, own: _TokenIds, context: "_TokenIds | list[int]") -> _TokenIds:
        """Return the token ids of a clip with a context."""
        return np.concatenate([self.first, own, self.middle, context, self.last]).astype(np.int64)

    def alone(self, own: _TokenIds, tokenized: _TokenIds) -> _TokenIds:
        """Return the token ids of a clip without a context: those that it was tokenised to."""
        return np.concatenate([tokenized[: self.leading], own, tokenized[len(tokenized) - self.trailing :]]).astype(
            np.int64
        )


def _places(part: list[int], whole: list[int]) -> list[int]:
    return [start for start in range(len(whole) - len(part) + 1) if whole[start : start + len(part)] == part]


def _bare(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[_TokenIds]:
    """Tokenise texts without special tokens."""
    if not texts:
        return []
    with quiet():
        rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [np.asarray(row, dtype=np.int64) for row in rows]


def _nearest(before: Sequence[_TokenIds], after: Sequence[_TokenIds], room: int) -> _TokenIds:
    """Return the context in the order of the video, without the tokens farthest from the clip if room is short."""
    left: list[_TokenIds] = []
    right: list[_TokenIds] = []
    for distance in range(max(len(before), len(after))):
        for ids in before[distance : distance + 1]:
            left.append(ids[max(0, len(ids) - max(0, room)) :])
            room -= len(left[-1])
        for ids in after[distance : distance + 1]:
            right.append(ids[: max(0, room)])
            room -= len(right[-1])
    return np.concatenate([*left[::-1], *right, np.zeros(0, dtype=np.int64)])
