"""The demo's text encoder: a small BERT, pretrained in seconds on sentences of the demo's kind.

Axes: B sentences of a batch, N sentences, L tokens of the longest one, V words of the vocabulary, D hidden size.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conki_cli.system.errors import EncoderError
from conki_cli.system.files import to_json
from conki_cli.text.encoders import load_tokenizer
from conki_cli.text.folders import published, quiet
from conki_cli.text.tokens import tokenize

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BATCH_SIZE = 48
_MASKED_SHARE = 0.15
_PEAK_LEARNING_RATE = 3e-3
_INITIAL_DEVIATION = 0.1  # about 1 / sqrt(D); BERT's 0.02 suits D = 768 and learns nothing here in 500 steps
_DROPOUT = 0.1  # for the encoder's users; the short pretraining uses none
_MAX_DEMO_TOKENS = 64


def build_demo_encoder(
    folder: str | Path,
    sentences: Sequence[str],
    *,
    seed: int = 0,
    num_steps: int = 500,
    hidden_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Pretrain a small BERT (4 layers, 4 heads) on `sentences` and save it as an encoder folder.

    Its vocabulary consists of the words of the sentences. It learns to restore masked words, and its pooler to name the
    words of the sentence, the rare ones first: BERT's own sentence task (which sentence follows) has no meaning for
    unordered sentences, and an untrained pooler would make O_t (Eq. 1) a random projection. Neither task sees a score.

    Args:
        folder: Where the encoder is saved, for AutoModel and AutoTokenizer.
        sentences: Training data, with at least one word.
        seed: Fixes the result bit for bit: torch uses one thread meanwhile, and not its global generator.
        num_steps: Steps of 48 sentences; 500 take about 16 seconds on one core.
        hidden_size: D, a multiple of 4.
        progress: Called after every step with (finished steps, total steps).
    """
    import torch

    with published(Path(folder)) as temporary, torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        num_words = _write_demo_tokenizer(temporary, sentences)
        if not num_words or hidden_size % 4:
            raise EncoderError("a demo encoder must have sentences with words and a hidden size divisible by 4")
        rows, _ = tokenize(load_tokenizer(str(temporary)), sentences, max_length=_MAX_DEMO_TOKENS)
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)  # [N, L]
        model, naming = _demo_model(len(_SPECIAL_TOKENS) + num_words, hidden_size)
        # Words are weighted by their inverse squared count: rare ones carry more information than `the`.
        weights = torch.bincount(ids.flatten(), minlength=naming.out_features).clamp(min=1).float().pow(-2)  # [V]
        optimizer = torch.optim.AdamW([*model.parameters(), *naming.parameters()], weight_decay=0.01)
        for step in range(num_steps):  # linear warm-up over a tenth of the steps, then linear decay
            share = min((step + 1) / max(1, num_steps // 10), (num_steps - step) / num_steps)
            optimizer.param_groups[0]["lr"] = _PEAK_LEARNING_RATE * share
            batch = ids[torch.randint(len(ids), (_BATCH_SIZE,))]
            optimizer.zero_grad()
            torch.autograd.backward(_demo_loss(model, naming, batch[:, (batch > 0).any(dim=0)], weights))
            optimizer.step()
            if progress is not None:
                progress(step + 1, num_steps)
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = _DROPOUT
        with quiet():
            model.bert.save_pretrained(str(temporary))
    return Path(folder)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one thread: with another number it adds in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_demo_tokenizer(folder: Path, sentences: Sequence[str]) -> int:
    """Save a tokenizer that knows exactly the words of the sentences; return the size of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    pieces = (splitter.pre_tokenize_str(normalizer.normalize_str(sentence)) for sentence in sentences)
    words = sorted({word for sentence in pieces for word, _ in sentence})
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{token[1:-1].lower()}_token": token for token in _SPECIAL_TOKENS}
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": _MAX_DEMO_TOKENS, **special}
    (folder / "tokenizer_config.json").write_text(to_json(settings), encoding="utf-8")
    return len(words)


def _demo_model(vocabulary_size: int, hidden_size: int) -> "tuple[PreTrainedModel, torch.nn.Linear]":
    """Build the masked-word model, and the temporary layer that names words from its pooled output."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=_MAX_DEMO_TOKENS,
        initializer_range=_INITIAL_DEVIATION,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    naming = torch.nn.Linear(hidden_size, vocabulary_size)
    torch.nn.init.normal_(naming.weight, std=0.3)
    return BertForPreTraining(config).train(), naming


def _demo_loss(
    model: "PreTrainedModel", naming: "torch.nn.Linear", ids: "torch.Tensor", weights: "torch.Tensor"
) -> "torch.Tensor":
    """Restore masked words from their neighbours, and name the others from the pooled output; ids [B, L]."""
    import torch
    from torch.nn import functional as F

    is_word = ids >= len(_SPECIAL_TOKENS)  # [B, L]
    is_masked = is_word & (torch.rand(ids.shape) < _MASKED_SHARE)
    is_masked[:, 1] |= ~is_masked.any()  # cross entropy over nothing would be nan
    output = model.bert(ids.masked_fill(is_masked, _SPECIAL_TOKENS.index("[MASK]")), attention_mask=(ids > 0).long())
    masked_words: torch.Tensor = model.cls.predictions(output.last_hidden_state[is_masked])  # [masked, V]
    named_words: torch.Tensor = naming(output.pooler_output)  # [B, V]
    shares = torch.zeros_like(named_words).scatter_(1, ids * (is_word & ~is_masked), 1.0) * weights
    shares[:, 0] = 0.0  # words that are not to be named were written to [PAD]
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-20)  # soft targets; none if all are masked
    return F.cross_entropy(masked_words, ids[is_masked]) + F.cross_entropy(named_words, shares)
