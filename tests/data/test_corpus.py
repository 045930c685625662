"""The embedded corpus: whole, split cleanly, drawn the same way everywhere, and small."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from wheels.data import corpus
from wheels.data.corpus import EMBEDDED, FILE, SIZES, draw, is_beyond, read
from wheels.data.tasks import load_task
from wheels.errors import WheelsError
from wheels.models.artefact import embedded_folder


def test_its_splits_have_their_sizes_and_share_no_sentence():
    splits = read()
    assert {split: len(pairs) for split, pairs in splits.items()} == SIZES
    for side in (0, 1):
        texts = {split: {pair[side] for pair in pairs} for split, pairs in splits.items()}
        assert all(text.strip() == text != "" for some in texts.values() for text in some)
        for one in texts:
            for other in set(texts) - {one}:
                assert not texts[one] & texts[other], f"{one} and {other} share a sentence"


def test_it_is_everyday_german_and_english():
    sources, targets = zip(*read()["test"], strict=True)
    words = [word for text in sources for word in text.split()]
    assert 5 < len(words) / len(sources) < 9
    assert sum(word in ("der", "die", "das", "ich", "nicht", "ist") for word in words) > len(words) / 20
    assert sum(word in ("the", "I", "is", "to", "not") for text in targets for word in text.split()) > len(words) / 20


def test_it_takes_less_than_a_megabyte():
    assert (embedded_folder() / FILE).stat().st_size < 1_000_000


def test_the_rows_are_the_ones_that_figures_were_published_on():
    assert load_task(EMBEDDED).digest == "c4e383c2e97f9288"


def test_a_limit_takes_the_first_rows():
    task = load_task(EMBEDDED, limit=3)
    assert [(row.source, row.target) for row in task.test] == read()["test"][:3]


def some(sizes: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    return {split: [(f"{split} {row}", f"says {split} {row}") for row in range(size)] for split, size in sizes.items()}


def test_a_draw_repeats_itself_and_takes_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = {split: size // 20 for split, size in SIZES.items()}
    monkeypatch.setattr(corpus, "SIZES", sizes)
    rows = some({split: size + 100 for split, size in sizes.items()})
    draw(tmp_path / "one", rows)
    draw(tmp_path / "other", rows)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    drawn = read(tmp_path / "one")
    assert {split: len(set(pairs) & set(rows[split])) for split, pairs in drawn.items()} == sizes
    assert drawn["test"] != rows["test"][: sizes["test"]]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ({**SIZES, "test": 7}, "has 2,000 rows of test, got 7"),
        (None, "a row of train has a tab or a line end in it: 'a\\\\tb'"),
    ],
)
def test_a_draw_refuses_what_it_cannot_keep(tmp_path: Path, rows, match):
    given = some(rows or dict(SIZES))
    if rows is None:
        given["train"] = [("a\tb", "c")] * SIZES["train"]
    with pytest.raises(WheelsError, match=match):
        draw(tmp_path / "corpus", given)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", lzma.compress(b"one column\n"), lzma.compress(b"a\tb\tc\n")])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / FILE).write_bytes(content)
    if not content:
        with pytest.raises(WheelsError, match="cannot be read"):
            read(tmp_path / "missing")
    with pytest.raises(WheelsError, match=r"corpus.tsv.xz: cannot be read \(.*\); install wheels again"):
        read(tmp_path / FILE)


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("Guten Tag, wie geht es dir?", False),
        ("Kannst du mir helfen, bitte?", False),
        ("How are you today, my friend?", True),
        ("Où est la gare, s'il vous plaît ?", True),
        ("Дождь идёт весь день.", True),
        ("Die Quantenchromodynamik beschreibt Gluonenfelder.", True),
        ("Ich gehe heute " * 11, True),
        ("!?", False),
    ],
)
def test_what_the_pair_cannot_read_is_told_by_its_words(text: str, beyond: bool):
    assert is_beyond(text) is beyond


def test_few_sentences_of_its_own_kind_are_called_beyond_it_and_nearly_all_of_another_language():
    sources, targets = zip(*read()["validation"], strict=True)
    assert sum(map(is_beyond, sources)) < 0.01 * len(sources)
    assert sum(map(is_beyond, targets)) > 0.99 * len(targets)
