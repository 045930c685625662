"""`wheels rationales` as a whole: what it writes, that it goes on where it was cut short, and its page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tests.output.test_visible import ODD
from wheels.cli.main import main
from wheels.data.rows import Row
from wheels.distillation.collate import Collator
from wheels.errors import WheelsError
from wheels.files import read_json, write_json, write_text
from wheels.models.pair import Pair
from wheels.rationales import run as rationales
from wheels.rationales.attribution import saliency
from wheels.rationales.config import METHODS, RationalesConfig
from wheels.rationales.page import rationales_page, section
from wheels.rationales.run import Attributor, random_scores, run


@pytest.fixture
def teacher(request, tmp_path) -> str:
    pair: Pair = request.getfixturevalue(getattr(request, "param", "t5"))
    folder = pair.save_teacher(tmp_path / "teacher")
    write_json(folder / "finished.json", {"prompt": pair.prompt.noted})
    return str(folder)


def config(teacher: str, data: str, output: Path, **options) -> RationalesConfig:
    return RationalesConfig(teacher=teacher, data=data, output=str(output), **({"batch_size": 4, "top_k": 2} | options))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("teacher", ["t5", "llama"], indirect=True)
def test_writes_the_words_the_gradients_point_to(teacher, data, task, tmp_path):
    """Each row alone, by the functions that are tested against Captum."""
    output = run(config(teacher, data, tmp_path / "out.jsonl"))
    rows = read(output)
    assert [(row["source"], row["target"]) for row in rows] == [(row.source, row.target) for row in task.train]
    attributor = rationales.load_attributor(config(teacher, data, output))
    pair = attributor.pair
    assert pair.prompt.text == ("{source}" if pair.is_seq2seq else "{source} =>")
    for row in rows[:6]:
        (source,), (target,) = pair.encode([row["source"]]), pair.encode_targets([row["target"]])
        batch = Collator(pair.is_seq2seq, pair.pad_id, pair.start_ids)([{"source": source, "target": target}])
        scores = saliency(pair.teacher, batch)[0].tolist()
        pieces = [pair.tokenizer.decode([token]) for token in source]
        words: list[list] = []
        for piece, score in zip(pieces, scores, strict=False):
            if piece in ("</s>", "=>", " =>", " =", ">"):
                break
            if piece.startswith(" ") or not words:
                words.append([piece.strip(), score])
            else:
                words[-1] = [words[-1][0] + piece, max(words[-1][1], score)]
        assert [word for word, _ in words] == row["source"].split() == [word for word, _ in row["rationale_words"]]
        assert [score for _, score in row["rationale_words"]] == pytest.approx([s for _, s in words], rel=1e-3)
        best = sorted(range(len(words)), key=lambda place: -words[place][1])[:2]
        assert row["rationale"] == " ".join(words[place][0] for place in sorted(best))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("teacher", ["t5", "llama"], indirect=True)
def test_every_method_gives_each_word_a_score(teacher, data, tmp_path, method):
    options = {"method": method, "limit": 9, "steps": 2, "column": "why"}
    rows = read(run(config(teacher, data, tmp_path / "out.jsonl", **options)))
    again = read(run(config(teacher, data, tmp_path / "one.jsonl", **options, batch_size=1)))
    assert [row["why"] for row in rows] == [row["why"] for row in again], "no row depends on its company"
    assert all(len(row["why_words"]) == len(row["source"].split()) for row in rows)
    assert all(len(row["why"].split()) == 2 for row in rows)
    scores = [score for row in rows for _, score in row["why_words"]]
    assert len(set(scores)) > 10
    assert (min(scores) < 0.0) == (method in ("gradient-x-input", "integrated-gradients"))


@pytest.mark.slow
def test_goes_on_where_it_was_cut_short(teacher, data, tmp_path, monkeypatch):
    monkeypatch.setattr(rationales, "CHUNK", 10)
    whole = run(config(teacher, data, tmp_path / "whole.jsonl"))
    attribute, calls = Attributor.attribute, []

    def counted(self, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attribute(self, rows)

    monkeypatch.setattr(Attributor, "attribute", counted)
    settings = config(teacher, data, tmp_path / "cut.jsonl", html=str(tmp_path / "cut.html"))
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert not (tmp_path / "cut.jsonl").exists()
    run(settings)
    assert calls == [10, 10, 10, 10, 10, 8], "48 rows, of which the first 20 were kept"
    assert (tmp_path / "cut.jsonl").read_bytes() == whole.read_bytes()
    resolved = read_json(tmp_path / "cut.jsonl.run" / "resolved.json")
    assert resolved["config"]["method"] == "saliency"
    assert resolved["rows"] == 48
    (tmp_path / "cut.html").unlink()
    run(settings)
    assert len(calls) == 6, "done already"
    assert (tmp_path / "cut.html").exists()
    with pytest.raises(WheelsError, match=r"cut.jsonl.run holds a run with top_k 2, not 3; give another --output"):
        run(config(teacher, data, tmp_path / "cut.jsonl", top_k=3))


def test_of_the_teachers_own_output(teacher, data, tmp_path):
    """No reference is needed; what was attributed is written down, and is what `generate` writes."""
    text = "".join(json.dumps({"source": row["source"]}) + "\n" for row in read(Path(data) / "train.jsonl")[:5])
    file = str(write_text(tmp_path / "bare.jsonl", text))
    rows = read(run(config(teacher, file, tmp_path / "out.jsonl", of="own", max_new_tokens=5)))
    pair = rationales.load_attributor(config(teacher, file, tmp_path / "x")).pair
    (source,) = pair.encode([rows[3]["source"]])
    written = pair.teacher.generate(torch.tensor([source]), max_new_tokens=5, do_sample=False)[0, 1:]
    assert rows[3]["rationale_of"] == pair.decode(written.tolist())
    with pytest.raises(WheelsError, match=r"bare.jsonl:1: no column 'target'"):
        run(config(teacher, file, tmp_path / "other.jsonl"))


def test_a_row_that_the_teacher_cannot_read_has_no_rationale(teacher, tmp_path, caplog):
    rows = [
        {"source": "rot " * 300, "target": "red"},
        {"source": "rot", "target": "red"},
        {"source": "?", "target": "a"},
    ]
    file = str(write_text(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    with caplog.at_level("WARNING", logger="wheels"):
        found = read(run(config(teacher, file, tmp_path / "out.jsonl", html=str(tmp_path / "out.html"))))
    assert [row["rationale"] for row in found] == [None, "rot", None]
    assert "2 of 3 rows are longer than the teacher reads, or have no words" in caplog.text


def test_nothing_is_overwritten(teacher, data, tmp_path):
    write_text(tmp_path / "mine.jsonl", "{}\n")
    with pytest.raises(WheelsError, match=r"mine.jsonl is there already, and no run of this command wrote it"):
        run(config(teacher, data, tmp_path / "mine.jsonl"))
    with pytest.raises(
        WheelsError, match=r"train.jsonl:1: there is a column 'target' already; name another by --column"
    ):
        run(config(teacher, data, tmp_path / "out.jsonl", column="target"))
    with pytest.raises(WheelsError, match=r"none: none of train, validation and test \(.jsonl, "):
        (tmp_path / "none").mkdir()
        run(config(teacher, str(tmp_path / "none"), tmp_path / "out.jsonl"))


def test_the_command_line(teacher, data, tmp_path, capsys):
    arguments = ["--teacher", teacher, "--data", data, "--split", "test", "--method", "random", "--top-k", "1"]
    assert main(["rationales", *arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    assert all(len(row["rationale"].split()) == 1 for row in read(tmp_path / "out.jsonl"))
    assert main(["rationales", *arguments, "--output", str(tmp_path / "x"), "--method", "saliencie"]) == 2
    assert "method must be one of saliency" in capsys.readouterr().err


def test_random_words_are_drawn_alike_whatever_their_pieces(t5, tmp_path):
    """A word of ten pieces beside one of one piece is drawn half of the time."""
    attributor = Attributor(t5, config("x", "x", tmp_path, method="random"))
    found = attributor.attribute([Row(f"rot 12345678{number}", "red") for number in range(400)])
    share = sum(row["words"][1][1] > row["words"][0][1] for row in found) / 400
    assert 0.4 < share < 0.6


def test_random_scores_depend_on_text_and_seed_alone():
    assert random_scores("a", 3, 0) == random_scores("a", 3, 0)
    assert random_scores("a", 3, 0) != random_scores("b", 3, 0)
    assert random_scores("a", 3, 0) != random_scores("a", 3, 1)


class Seen(HTMLParser):
    """What a browser would make of a page: tags that are open at the end, and the text of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, str, dict]] = []
        self.attributes: list[dict] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
            self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.attributes.pop()

    def handle_data(self, data):
        if self.open:
            self.found.append((self.open[-1], data, self.attributes[-1]))


def test_the_page_shades_each_word_by_its_weight():
    source = 'Is <b>3</b> "x" & y?'
    seen = Seen(section(source, "<i>", [("Is", 0.5), ("<b>3</b>", -1.0), ("x", 0.0), ("&", 0.1), ("y", 0.2)], 2))
    assert seen.open == []
    assert "".join(text for tag, text, _ in seen.found if tag in ("p", "span")).startswith(source)
    shades = {text: attributes["style"] for tag, text, attributes in seen.found if tag == "span"}
    assert shades["Is"] == "background:rgba(var(--for),0.30)"
    assert shades["<b>3</b>"] == "background:rgba(var(--against),0.60)"
    assert shades["x"].endswith(",0.00)")
    assert [text for tag, text, _ in seen.found if tag == "p"][-1] == "<i>"


@pytest.mark.parametrize("name", ODD)
def test_the_page_obeys_no_control_and_sets_each_text_in_its_direction(name):
    odd = ODD[name]
    text = rationales_page([(f"a {odd}b", odd, [("a", 1.0), (f"{odd}b", 0.5)], 1)], {odd: odd})
    assert text.replace("\n", "").replace("�", "").isprintable() and text.count("�") >= 3
    assert '<p dir="auto">' in text and '<p class="target" dir="auto">' in text


def test_the_page_marks_the_rationale_and_runs_nothing():
    text = rationales_page(
        [("<script>alert(1)</script> b", "t", [("<script>alert(1)</script>", 1.0), ("b", 0.5)], 1)], {"<x>": "&"}
    )
    assert "<script" not in text
    assert re.findall(r"<b>(.*?)</b>", text) == [
        "underlined",
        '<span style="background:rgba(var(--for),0.60)" title="+1.00">&lt;script&gt;alert(1)&lt;/script&gt;</span>',
    ]
    assert Seen(text).open == []
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text
