"""Check that a tokenizer's vocabulary covers the texts and fits the encoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conki_cli.system.errors import EncoderError
from conki_cli.text.tokens import tokenize

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

DOUBTFUL = 0.2
"""Warn from this share of unknown tokens on; with an uncased English tokenizer MOSEI has 0.00003."""
_EXAMINED, _LONGEST = (
    200,
    10**4,
)  # number of texts that are tokenised again to find the cause of unknown tokens; their total tokens


@dataclass(frozen=True)
class TokenCounts:
    """Counts of the tokens of some texts."""

    num_texts: int
    num_truncated: int
    """Number of texts with more tokens than the encoder accepts, which are truncated."""
    num_tokens: int
    """Number of tokens, without special tokens, bare word-start marks, and truncated ends."""
    num_unknown: int
    """Number of tokens for words outside the vocabulary."""

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are unknown, 0 to 1; 0 without tokens."""
        return self.num_unknown / max(1, self.num_tokens)

    @property
    def percent_unknown(self) -> str:
        """The share of unknown tokens for a message."""
        return f"{100 * self.unknown_share:.1f} %"


def count_tokens(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[np.ndarray], num_truncated: int = 0
) -> TokenCounts:
    """Count tokens and unknown tokens in what `tokenize` returned, [L] per text."""
    all_ids = np.concatenate([*ids, np.zeros(0, dtype=np.int64)])
    num_tokens = len(all_ids) - tokenizer.num_special_tokens_to_add() * len(ids)
    # Byte-level tokenizers know every word; some have another special token here, which is in every text.
    roles = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in [getattr(tokenizer, role) for role in roles]:
        return TokenCounts(len(ids), num_truncated, num_tokens, 0)
    # SentencePiece splits an unknown word into the word-start mark, which is known, and the rest.
    mark = tokenizer.convert_tokens_to_ids("▁")
    num_marks = int((all_ids == mark).sum()) if mark not in (None, unknown) else 0
    return TokenCounts(len(ids), num_truncated, num_tokens - num_marks, int((all_ids == unknown).sum()))


@dataclass(frozen=True)
class TextReport:
    """Token counts of texts by split; new clips have the split ""."""

    what: str
    """The name of the data set."""
    tokenizer: "PreTrainedTokenizerBase | None"
    """None if the model reads no text; then `counts` is empty."""
    counts: Mapping[str, TokenCounts]
    texts: Callable[[str], Sequence[str]]
    """Returns the texts of a split; called only if many of their tokens are unknown."""

    def as_facts(self) -> dict[str, dict[str, float]]:
        """Return the counts of every split for a result.json."""
        return {
            split: {
                "texts": part.num_texts,
                "truncated": part.num_truncated,
                "tokens": part.num_tokens,
                "unknown": part.num_unknown,
                "unknown_share": round(part.unknown_share, 4),
            }
            for split, part in self.counts.items()
        }

    def check(self, limit: float) -> None:
        """Refuse texts that the encoder does not know.

        Args:
            limit: refuse from this share of unknown tokens on; 1 allows any.

        Raises:
            EncoderError: the share in a split reaches the limit.
        """
        for split, part in self.counts.items():
            if part.num_unknown and limit < 1.0 and part.unknown_share >= limit:
                raise EncoderError(
                    f"the text encoder must know the words of the texts, but {part.percent_unknown} of the tokens of "
                    f"{self._name(split)} are unknown to its tokenizer (the limit is {100 * limit:g} %): "
                    f"{self._advice(split)}, or allow it with --set data.max_unknown=1"
                )

    def warning(self) -> str:
        """Return a warning that names every split with many unknown tokens; empty if there is none."""
        doubtful = {split: part for split, part in self.counts.items() if part.unknown_share >= DOUBTFUL}
        if not doubtful:
            return ""
        shares = " and ".join(
            f"{part.percent_unknown} of the tokens of {self._name(s)}" for s, part in doubtful.items()
        )
        return f"warning: unknown to the text encoder's tokenizer are {shares}: {self._advice(next(iter(doubtful)))}"

    def described(self, max_tokens: int, num_rows: int) -> list[str]:
        """Return lines with the numbers of unknown tokens and truncated texts, then warnings.

        Args:
            max_tokens: the largest number of tokens that the encoder accepts.
            num_rows: the number of rows of its embedding.
        """
        if self.tokenizer is None:
            return []
        parts = self.counts.items()
        shares = ", ".join(f"{part.percent_unknown} of {part.num_tokens:,} in {split}" for split, part in parts)
        lines = [f"texts of {self.what}: unknown tokens are {shares}"]
        if any(part.num_truncated for part in self.counts.values()):
            cut = ", ".join(f"{part.num_truncated} of {part.num_texts:,} in {split}" for split, part in parts)
            lines.append(f"texts of {self.what} with more than {max_tokens} tokens, which are truncated: {cut}")
        doubt = vocabulary_doubt(num_entries(self.tokenizer), num_rows)
        lines += [self.warning(), f"warning: {doubt}" if doubt else ""]
        return [line for line in lines if line]

    def _name(self, split: str) -> str:
        return f"{self.what}/{split}" if split else self.what

    def _advice(self, split: str) -> str:
        """Return advice about unknown tokens, as far as the vocabulary and some of the texts show the cause."""
        tokenizer = self.tokenizer
        assert tokenizer is not None
        if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_ids)):
            return "its vocabulary has only special tokens, so restore the encoder's own tokenizer"
        sample = [text for text in self.texts(split)[: 10 * _EXAMINED] if text.strip()][:_EXAMINED]
        as_it_is, lowercase = (
            count_tokens(tokenizer, tokenize(tokenizer, sentences, max_length=_LONGEST)[0]).unknown_share
            for sentences in (sample, [text.lower() for text in sample])
        )
        if lowercase < as_it_is / 2:
            return "in lowercase most are known, so choose a tokenizer that lowercases, or prepare lowercase texts"
        return "choose an encoder of the texts' language, or restore its own tokenizer"


def num_entries(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the highest id of a tokenizer plus 1, including added tokens."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", name: str) -> None:
    """Refuse a tokenizer with ids that the encoder has no embedding for.

    Raises:
        EncoderError: including added tokens, it has more entries than the embedding has rows.
    """
    if problem := vocabulary_problem(num_entries(tokenizer), config.vocab_size):
        raise EncoderError(
            f"{problem} in {name}",
            (
                "restore the encoder's own tokenizer, or call "
                "resize_token_embeddings(len(tokenizer)) on the encoder and save it again"
            ),
        )


def vocabulary_problem(count: int, num_rows: int) -> str:
    """Describe that a tokenizer with highest id count - 1 has ids beyond an embedding's rows; "" if it has not."""
    if count <= num_rows:
        return ""
    return (
        "a tokenizer must not have more entries than its encoder's embedding has rows (vocab_size), found "
        f"{count:,} entries and {num_rows:,} rows"
    )


def vocabulary_doubt(count: int, num_rows: int) -> str:
    """Warn that a tokenizer is probably another encoder's, because many rows of the embedding have no entry."""
    # Rows may be padded to a multiple of 64 or 128, or a few may be reserved: neither is suspicious.
    if num_rows - count <= max(num_rows // 100, min(128, num_rows // 10)):
        return ""
    return (
        f"the tokenizer has {count:,} entries and the encoder's embedding {num_rows:,} rows: "
        "check that it is the encoder's own tokenizer"
    )
