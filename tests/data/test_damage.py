"""Damage on purpose: how it is typed, and what it does to frames and texts."""

import numpy as np
import pytest

from conki_cli.data.store.damage import Corruption, corrupted, parse_corruptions
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.system.errors import SettingsError

WORDS = ("able", "about", "above", "acid", "acted", "added", "after", "again", "the", "bird", "bold", "book")


def clips(count: int = 200, *, seed: int = 0) -> Utterances:
    """Clips of 0 to 20 frames whose two columns have deviations 1 and 100 around 1000, and of 10 words."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 21, size=count)
    frames = (1000 + draw.normal(size=(lengths.sum(), 2)) * [1, 100]).astype(np.float32)
    rows = Ragged(frames, np.concatenate([[0], np.cumsum(lengths)]))
    texts = [" ".join(draw.choice(WORDS, size=10)) for _ in range(count)]
    return Utterances([f"v$_${k}" for k in range(count)], texts, None, {"audio": rows}, {})


def one(text: str) -> tuple[Corruption, ...]:
    [found] = parse_corruptions(text)
    return found


def frames_of(found: Utterances) -> list[np.ndarray]:
    rows = found.frames["audio"]
    return [rows[k] for k in range(len(rows))]


def test_a_list_of_amounts_is_a_curve_and_plus_joins_kinds() -> None:
    curve = parse_corruptions("audio:noise=20dB,-5")
    assert [found[0].spec for found in curve] == ["audio:noise=20dB", "audio:noise=-5dB"]
    assert [part.words for part in one("text:asr=0.2+vision:drop=1")] == ["text asr 0.2", "vision drop 1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sound:noise=3", "--corrupt damages text, vision, audio, found 'sound'"),
        ("audio=3", "--corrupt takes MODALITY:KIND=VALUES"),
        ("audio:noise=loud", "--corrupt takes MODALITY:KIND=VALUES"),
        ("text:noise=3", "text can be damaged by asr, found 'noise'"),
        ("audio:drop=1.5", "drop must be a share of 0 to 1, found '1.5'"),
        ("audio:drop=nan", "drop must be a share of 0 to 1, found 'nan'"),
        ("audio:noise=inf", "noise must be -100dB to 100dB, found 'inf'"),
        ("audio:drop=0.1,0.1", "must name each amount once"),
        ("audio:drop=0.1+audio:drop=0.2", "must name each kind of damage once"),
        ("audio:drop=0.1,0.2+text:asr=0.1", "must have one amount each"),
    ],
)
def test_another_form_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason.replace(".", r"\.")):
        parse_corruptions(text)


@pytest.mark.parametrize("decibels", [20, 0, -6])
def test_noise_has_the_stated_power_in_every_feature(decibels: int) -> None:
    before, after = clips(), corrupted(clips(), one(f"audio:noise={decibels}dB"), 1)
    noise = np.concatenate(frames_of(after)) - np.concatenate(frames_of(before))
    signal = np.concatenate(frames_of(before)).astype(np.float64).var(axis=0)
    found = 10 * np.log10(signal / noise.astype(np.float64).var(axis=0))
    np.testing.assert_allclose(found, decibels, atol=0.3)
    assert after.frames["audio"].lengths.tolist() == before.frames["audio"].lengths.tolist()


def test_less_damage_is_part_of_more() -> None:
    own = clips()
    quiet, loud = (
        np.concatenate(frames_of(corrupted(own, one(f"audio:noise={level}dB"), 1))) - np.concatenate(frames_of(own))
        for level in (6, -14)
    )
    np.testing.assert_allclose(loud, 10 * quiet, rtol=0.02, atol=2e-3)
    few, many = (frames_of(corrupted(own, one(f"audio:drop={share}"), 1)) for share in (0.25, 0.75))
    assert all({*map(tuple, left)} <= {*map(tuple, kept)} for kept, left in zip(few, many, strict=True))


def test_the_stated_share_of_frames_is_lost_and_the_rest_keeps_its_order() -> None:
    own, found = clips(), corrupted(clips(), one("audio:drop=0.4"), 1)
    lengths = own.frames["audio"].lengths
    assert found.frames["audio"].lengths.tolist() == [n - round(0.4 * n) for n in lengths]
    for before, after, count in zip(frames_of(own), frames_of(found), found.frames["audio"].lengths, strict=True):
        places = [before.tolist().index(frame) for frame in after.tolist()]
        assert (len(after), places) == (count, sorted(places))
    assert corrupted(own, one("audio:drop=1"), 1).frames["audio"].lengths.sum() == 0


def test_recognition_errors_hit_the_stated_share_of_words_in_three_ways() -> None:
    own = clips(800)
    texts = corrupted(own, one("text:asr=0.3"), 1).texts
    grown = sum(len(text.split()) for text in texts) / 8000 - 1
    assert grown == pytest.approx(0.3 * (0.15 - 0.25), abs=0.015)  # inserted less deleted
    same = [(a.split(), b.split()) for a, b in zip(own.texts, texts, strict=True) if len(a.split()) == len(b.split())]
    changed = [(a, b) for before, after in same for a, b in zip(before, after, strict=True) if a != b]
    swapped = [(a, b) for a, b in changed if a[0] == b[0] and abs(len(a) - len(b)) < 2]
    assert len(swapped) > len(changed) / 2
    assert ("the", "the") not in changed


def test_a_clip_is_damaged_alike_wherever_it_stands_and_by_another_seed_otherwise() -> None:
    own = clips()
    damage = one("audio:drop=0.5")
    whole, few = corrupted(own, damage, 1), corrupted(own.limited(7), damage, 1)
    for place, row in enumerate(own.ids.index(identity) for identity in own.limited(7).ids):
        np.testing.assert_array_equal(few.frames["audio"][place], whole.frames["audio"][row])
    assert corrupted(own, one("text:asr=0.5"), 1).texts == corrupted(own, one("text:asr=0.5"), 1).texts
    assert corrupted(own, one("text:asr=0.5"), 1).texts != corrupted(own, one("text:asr=0.5"), 2).texts


@pytest.mark.parametrize("kind", ["drop=0.5", "noise=5dB"])
def test_clips_that_are_picked_after_the_damage_are_those_with_their_ids(kind: str) -> None:
    whole = corrupted(clips(), one(f"audio:{kind}"), 1)
    few = whole.limited(50).limited(7)
    assert len(few.frames["audio"]) == 7
    for place, row in enumerate(whole.ids.index(identity) for identity in few.ids):
        np.testing.assert_array_equal(few.frames["audio"][place], whole.frames["audio"][row])
        assert few.frames["audio"].lengths[place] == whole.frames["audio"].lengths[row]


def test_no_errors_leave_a_text_as_it_is() -> None:
    own = Utterances(["a", "b"], ["two  spaces", ""], None, {}, {})
    assert corrupted(own, one("text:asr=0"), 1).texts == own.texts
    assert corrupted(own, one("text:asr=1"), 1).texts[1] == ""
