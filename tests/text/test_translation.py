import contextlib
import hashlib
import http.server
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.sources.labels import CHINESE_TEXT_NOTE
from conki_cli.data.store.reading import FeatureStore
from conki_cli.system.errors import ConkiError, EncoderError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.text import translation
from conki_cli.text.translation import translate, translator_identity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SWIG's, on some versions of Python
    sentencepiece = pytest.importorskip("sentencepiece")

SOURCE = ["今天 天气 很 好", "我 不 喜欢 这 部 电影", "他 说 的 是 真的 吗", "我们 走 吧", "太 好 了"]
MANY = [f"{one} {two}" for one in SOURCE for two in SOURCE] + [f"{one} {one} 我" for one in SOURCE] + [*"今天很好走吧"]
TARGET = ["the weather is fine today", "i do not like this film", "is it true what he says", "let us go", "so good"]
COMMIT = "0123456789abcdef" * 2 + "01234567"


def pieces_of(sentences: list[str], path: Path) -> list[str]:
    """Train a small SentencePiece model and return its pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 4),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.id_to_piece(index) for index in range(3, processor.get_piece_size())]


@pytest.fixture(scope="session")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MarianMT of one layer and width 16 with random weights, so large that each sentence gets words of its own."""
    from transformers import MarianConfig, MarianMTModel

    folder = tmp_path_factory.mktemp("models") / "marian"
    folder.mkdir()
    pieces = pieces_of(SOURCE, folder / "source.spm") + pieces_of(TARGET, folder / "target.spm")
    vocabulary = ["</s>", "<unk>", *dict.fromkeys(pieces), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(vocabulary)}))
    end = len(vocabulary) - 1
    layer = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        max_position_embeddings=24,
        init_std=1.0,
        pad_token_id=end,
        decoder_start_token_id=end,
        eos_token_id=0,
        forced_eos_token_id=0,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in layer.items()},
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        MarianMTModel(config).save_pretrained(str(folder))
    tokens = {"decoder_start_token_id": end, "eos_token_id": 0, "forced_eos_token_id": 0, "pad_token_id": end}
    sampling = {"do_sample": True, "temperature": 5.0, "num_return_sequences": 2, "num_beams": 2}
    (folder / "generation_config.json").write_text(json.dumps({**tokens, **sampling}))
    return folder


@pytest.fixture
def copied(marian: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(marian, tmp_path / "copied"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "translations.sqlite"


@contextlib.contextmanager
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve a folder as the hub's only model `some/marian`, as commit COMMIT of the revision refs/pr/1."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    siblings = [{"rfilename": name} for name in files]
    described = {"id": "some/marian", "sha": COMMIT, "siblings": siblings}
    listed = [{"type": "file", "path": name, "size": len(body), "oid": name} for name, body in files.items()]
    answers = {"/api/models/some/marian/revision/refs%2Fpr%2F1": json.dumps(described).encode()}
    answers[f"/api/models/some/marian/tree/{COMMIT}"] = json.dumps(listed).encode()
    answers.update({f"/some/marian/resolve/{COMMIT}/{name}": body for name, body in files.items()})

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = answers.get(self.path.partition("?")[0])
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server, monkeypatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.ENDPOINT", address)
        for place in ("constants", "file_download"):  # the second in releases before 1.0
            patch.setattr(f"huggingface_hub.{place}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub client without network that keeps its files in the test's folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_translations_come_in_the_order_of_their_sentences(marian, tmp_path):
    forward = translate(SOURCE, str(marian), tmp_path / "one").texts
    backward = translate(SOURCE[::-1], str(marian), tmp_path / "two").texts
    assert forward == backward[::-1]
    assert len(set(forward)) == len(SOURCE)


def test_a_sentence_is_translated_as_it_would_be_alone(marian, cache, tmp_path):
    together = translate(SOURCE, str(marian), cache).texts
    assert together == [translate([text], str(marian), tmp_path / text).texts[0] for text in SOURCE]


def test_nothing_is_sampled_though_the_checkpoint_asks_for_it(marian, tmp_path):
    state = torch.random.get_rng_state()
    one = translate(SOURCE, str(marian), tmp_path / "one")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert translate(SOURCE, str(marian), tmp_path / "two") == one


def test_blank_sentences_stay_as_they_are(marian, cache):
    found = translate(["", " \n", SOURCE[0]], str(marian), cache)
    assert found.texts[:2] == ["", " \n"]
    assert found.texts[2].strip()


def test_no_sentences_give_no_translations(marian, cache):
    assert translate([], str(marian), cache).texts == []


def test_every_sentence_is_reported_once_equal_ones_together(marian, cache):
    steps: list[int] = []
    found = translate(
        [SOURCE[0], "", SOURCE[1], SOURCE[0]], str(marian), cache, progress=lambda count, _: steps.append(count)
    )
    assert steps == [1, 3]
    assert found.texts[0] == found.texts[3]
    with contextlib.closing(sqlite3.connect(cache)) as stored:
        assert stored.execute("SELECT count(*) FROM translations").fetchone() == (2,)


def test_what_the_cache_holds_needs_neither_torch_nor_the_network(marian, cache):
    expected = translate(SOURCE, str(marian), cache)
    program = (
        "import sys\nfrom pathlib import Path\nfrom conki_cli.text.translation import translate\n"
        f"found = translate({SOURCE!r}, {str(marian)!r}, Path({str(cache)!r}))\n"
        "print(ascii(found.texts), found.reused, {'torch', 'transformers', 'sentencepiece'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == f"{expected.texts!a} 5 set()\n"


def test_an_interrupted_run_keeps_its_batches_and_ends_as_one_without_interruption(marian, cache, tmp_path):
    def interrupt(count: int, remark: str) -> None:
        if remark.startswith("sentences"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        translate(MANY, str(marian), cache, progress=interrupt)
    steps: list[int] = []
    continued = translate(MANY, str(marian), cache, progress=lambda count, _: steps.append(count))
    assert (continued.reused, steps) == (32, [32, len(MANY) - 32])
    assert continued.texts == translate(MANY, str(marian), tmp_path / "other").texts


def test_what_is_left_is_translated_in_the_batches_it_would_have_been_in(marian, cache, monkeypatch):
    monkeypatch.setattr(translation, "_BATCH_SIZE", 2)
    four, three, two, one = ("好" * length for length in (4, 3, 2, 1))
    translate([four], str(marian), cache)
    steps: list[str] = []
    translate([one, two, three, four], str(marian), cache, progress=lambda _, remark: steps.append(remark))
    assert steps[1:] == ["sentences of 3 characters", "sentences of 2 characters"]  # four + three, two + one


def test_two_runs_with_one_cache_return_the_same(marian, cache):
    inner = []
    outer = translate(
        MANY, str(marian), cache, progress=lambda count, remark: inner.append(translate(MANY, str(marian), cache))
    )
    assert all(found.texts == outer.texts for found in inner)


def test_a_sentence_longer_than_the_model_takes_is_counted_also_from_the_cache(marian, cache):
    long = "今天 天气 很 好 " * 20
    assert translate([long, SOURCE[0]], str(marian), cache).truncated == 1
    again = translate([long, long, SOURCE[0]], str(marian), cache)
    assert (again.truncated, again.reused) == (2, 3)


def test_half_a_character_is_no_fault(marian, cache):
    assert translate([SOURCE[0] + "\ud83d"], str(marian), cache).texts[0]


def test_a_copy_is_the_same_model_and_another_vocabulary_another_one(marian, copied):
    before = translator_identity(str(marian))
    assert translator_identity(str(copied)) == before
    (copied / "source.spm").write_bytes((copied / "target.spm").read_bytes())
    assert translator_identity(str(copied)) != before


def test_other_weights_do_not_take_the_cached_translations(marian, copied, cache):
    before = translate(SOURCE, str(marian), cache)
    weights = {name: -value for name, value in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    after = translate(SOURCE, str(copied), cache)
    assert after.reused == 0
    assert after.texts != before.texts


def test_a_hub_name_is_fetched_at_its_revision_and_known_by_its_commit(marian, cache, hub_cache, monkeypatch):
    with hub(marian, monkeypatch):
        found = translate(SOURCE, "some/marian@refs/pr/1", cache)
    assert found.model == f"some/marian@{COMMIT}"
    assert translate(SOURCE, "some/marian@refs/pr/1", cache).reused == 5
    shutil.rmtree(hub_cache)
    assert translate(SOURCE, f"some/marian@{COMMIT}", cache).texts == found.texts


def test_a_hub_name_with_pickled_weights_is_told_how_to_convert(copied, cache, hub_cache, monkeypatch):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with hub(copied, monkeypatch), pytest.raises(EncoderError, match=r"--translate some/marian@refs/pr/N") as caught:
        translate(SOURCE, "some/marian@refs/pr/1", cache)
    assert "save_pretrained('marian')" in str(caught.value)
    assert not list(hub_cache.rglob("pytorch_model.bin"))


def test_without_the_hub_the_error_says_how_to_fetch_the_model(cache, hub_cache):
    message = r"`hf download some/marian --revision v1 --local-dir marian` once.* --translate FOLDER"
    with pytest.raises(EncoderError, match=message):
        translate(SOURCE, "some/marian@v1", cache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must be a folder or a hub name"),
        ("./nowhere", "there is no folder ./nowhere.* check --translate"),
        ("~nobody-of-that-name/x", "no folder ~nobody"),
        ("a/" * 3000, "no folder a/a/"),
        ("some/marian@", "after the @"),
        ("some/marian@../../x", "after the @"),
        (__file__, "is a file: pass the folder that holds it"),
    ],
)
def test_a_name_that_can_be_no_model_is_refused(cache, name, message):
    with pytest.raises(EncoderError, match=message):
        translate(SOURCE, name, cache)


def test_a_folder_may_hold_an_at_sign(marian, cache, tmp_path):
    folder = shutil.copytree(marian, tmp_path / "zh@en")
    assert translate(SOURCE[:1], str(folder), cache).texts[0]


def test_a_model_of_another_type_is_refused(encoder, cache):
    with pytest.raises(EncoderError, match=r"must be a MarianMT checkpoint, but .* is of type 'bert'"):
        translate(SOURCE, str(encoder), cache)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "source.spm", "target.spm", "vocab.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_that_files_name(copied, cache, lost):
    (copied / lost).unlink()
    with pytest.raises(EncoderError, match=f"a translation model's folder must hold .*{lost}"):
        translate(SOURCE, str(copied), cache)


def test_pickled_weights_are_not_read_and_the_error_tells_how_to_convert(copied, cache):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pickle, which could run code .*MarianMTModel.*save_pretrained"):
        translate(SOURCE, str(copied), cache)


def test_weights_that_lack_a_parameter_are_refused(copied, cache):
    weights = load_file(copied / "model.safetensors")
    del weights["model.encoder.layers.0.fc1.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"1 of \d+ are missing \(model\.encoder\.layers\.0\.fc1\.weight\)"):
        translate(SOURCE, str(copied), cache)


def test_weights_that_are_not_finite_are_refused_by_name(copied, cache):
    weights = load_file(copied / "model.safetensors")
    weights["model.encoder.layers.0.fc1.weight"][0, 0] = float("nan")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"model\.safetensors must .*model\.encoder\.layers\.0\.fc1\.weight has nan"):
        translate(SOURCE, str(copied), cache)


def test_a_model_of_another_language_is_refused_before_anything_is_kept(marian, cache):
    with pytest.raises(EncoderError, match="of their tokens are unknown"):
        translate(["Жизнь прекрасна", "Это был отличный фильм"], str(marian), cache)
    assert translate(SOURCE, str(marian), cache).reused == 0


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors", "source.spm", "vocab.json"])
def test_a_damaged_file_of_the_model_gives_one_line(copied, cache, damaged):
    path = copied / damaged
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(EncoderError, match="cannot be loaded") as caught:
        translate(SOURCE, str(copied), cache)
    assert "\n" not in str(caught.value)


def test_without_sentencepiece_the_error_says_what_to_install(marian, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(EncoderError, match=r"pip install sentencepiece"):
        translate(SOURCE, str(marian), cache)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused(marian, cache):
    with pytest.raises(SettingsError, match="needs a usable NVIDIA GPU"):
        translate(SOURCE, str(marian), cache, device="cuda")


@pytest.mark.parametrize("content", [b"no database " * 99, b"SQLite format 3\0" + b"\7" * 4096])
def test_a_damaged_cache_is_to_be_deleted(marian, tmp_path, content):
    (tmp_path / "cache").write_bytes(content)
    with pytest.raises(ConkiError, match=r"is damaged .*: delete it") as caught:
        translate(SOURCE, str(marian), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_cut_cache_is_to_be_deleted(marian, tmp_path):
    path = tmp_path / "cache"
    translate(MANY, str(marian), path)
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(ConkiError, match=r"is damaged .*: delete it"):
        translate(MANY, str(marian), path)


def test_another_programs_database_is_refused(marian, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "cache")) as other:
        other.execute("CREATE TABLE translations (word TEXT)")
    with pytest.raises(ConkiError, match="must be a cache of translations"):
        translate(SOURCE, str(marian), tmp_path / "cache")


def test_a_folder_in_the_place_of_the_cache_is_refused(marian, tmp_path):
    with pytest.raises(ConkiError, match="it is a folder: name a file in it"):
        translate(SOURCE, str(marian), tmp_path)


def test_a_cache_below_a_file_is_refused(marian):
    with pytest.raises(ConkiError, match="a part of the path is a file"):
        translate(SOURCE, str(marian), Path(__file__) / "cache")


def test_a_cache_that_stays_locked_says_who_holds_it(marian, cache, monkeypatch):
    monkeypatch.setattr("conki_cli.text.translation._LOCK_SECONDS", 0.01)
    translate(SOURCE[:1], str(marian), cache)
    with contextlib.closing(sqlite3.connect(cache)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConkiError, match="another process has been writing"):
            translate(SOURCE, str(marian), cache)


# ---- `prepare --translate` ----


def test_a_prepared_store_holds_the_translations_of_the_chinese_texts(marian, tmp_path):
    texts = [*SOURCE[:2], "今天 天气 很 好 " * 20]
    splits = ("train", "valid", "test")
    rows = [f"v{k},1,{text.strip()},0,{split},good" for k, (text, split) in enumerate(zip(texts, splits, strict=True))]
    (tmp_path / "label.csv").write_text(
        "\n".join(["video_id,clip_id,text,label,mode,text_en", *rows]), encoding="utf-8"
    )
    space = Workspace(tmp_path)
    path = prepare(Preparation("sims", space, source=tmp_path / "label.csv", translate=str(marian)), Observer())
    expected = translate([text.strip() for text in texts], str(marian), tmp_path / "translations.sqlite")
    with FeatureStore(path) as store:
        assert [store.split(split).texts[0] for split in splits] == expected.texts
        assert "1 text truncated to what the translation model can read" in store.notes
        assert CHINESE_TEXT_NOTE not in store.notes
        assert f"texts translated by {expected.model}" in store.report["remarks"]
    assert expected.reused == 3
