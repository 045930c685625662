"""Rows that the teacher's server refuses, and answers that are no labels: named, counted, replaced."""

from __future__ import annotations

import json

import pytest

from tests.annotation.faulty_server import FaultyServer
from tests.annotation.test_run import remote, rows_of
from tests.annotation.test_run import unlabelled as unlabelled  # the fixture
from tests.endpoints.raw_server import RawServer, completion, response
from wheels.annotation import purchase
from wheels.annotation.run import run
from wheels.annotation.selection import random_order
from wheels.errors import WheelsError


def refusing(words, code=400, message="too long"):
    """A server that refuses the prompts with one of these words in them, and labels the others."""

    def answer(connection, body):
        prompt = body["messages"][0]["content"]
        if any(word in prompt for word in words):
            return connection.sendall(response(json.dumps({"error": {"message": message}}).encode(), code))
        return connection.sendall(response(completion("label")))

    return RawServer(answer)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_row_that_the_server_refuses_is_named_and_another_takes_its_unit(unlabelled, tmp_path, code, capsys):
    pool = [row["source"] for row in rows_of(tmp_path / "pool.jsonl")]
    order = [pool[place] for place in random_order(len(pool), 0)]
    with refusing([f"Question: {order[1]}\n", f"Question: {order[5]}\n"], code) as server:
        run(remote(unlabelled, tmp_path, server))
        kept, left = rows_of(tmp_path / "out" / "annotated.jsonl"), rows_of(tmp_path / "out" / "rejected.jsonl")
        assert [row["source"] for row in kept] == [order[place] for place in (0, 2, 3, 4, 6)]
        assert [row["source"] for row in left] == [order[1], order[5]]
        assert all(row["flaw"].startswith("refused: ") and "too long" in row["flaw"] for row in left)
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert (summary["spent"], summary["accepted"], summary["unusable"]) == (5, 5, {"refused": 2})
        assert "rows refused by the server, which cost nothing: 2; rejected.jsonl names them" in capsys.readouterr().out
        asked = len(server.bodies)
        assert asked == 7
        (tmp_path / "out" / "summary.json").unlink()
        run(remote(unlabelled, tmp_path, server))
        assert len(server.bodies) == asked, "neither what was paid nor what was refused is asked again"
        assert rows_of(tmp_path / "out" / "annotated.jsonl") == kept


def test_a_server_that_refuses_every_row_ends_the_run_in_one_line_and_holds_nothing(unlabelled, tmp_path, monkeypatch):
    with refusing(["Question"], message="the template is broken") as server:
        with pytest.raises(WheelsError, match=r"each of \d+ requests was refused: .*the template is broken"):
            run(remote(unlabelled, tmp_path, server))
        monkeypatch.setattr(purchase, "HOPELESS", 4)
        server.bodies.clear()
        with pytest.raises(WheelsError, match="the first 4 requests were refused, and none was answered"):
            run(remote(unlabelled, tmp_path, server))
        assert len(server.bodies) < 8
    with FaultyServer() as server:
        run(remote(unlabelled, tmp_path, server))
        assert len(rows_of(tmp_path / "out" / "annotated.jsonl")) == 5


@pytest.mark.parametrize(
    ("code", "message"), [(401, "no"), (403, "no"), (404, "no"), (400, "the model does not exist")]
)
def test_a_refusal_that_is_about_everything_ends_the_run_at_once(unlabelled, tmp_path, code, message):
    with refusing(["Question"], code, message) as server:
        with pytest.raises(WheelsError, match=f"code {code}: {message}"):
            run(remote(unlabelled, tmp_path, server, workers=1))
        assert len(server.bodies) == 1


def test_a_row_that_never_gets_an_answer_can_be_left_out(unlabelled, tmp_path):
    pool = [row["source"] for row in rows_of(tmp_path / "pool.jsonl")]
    order = [pool[place] for place in random_order(len(pool), 0)]
    with refusing([f"Question: {order[1]}\n"], 500) as server:
        for _ in range(2):
            with pytest.raises(WheelsError, match=r"1 of . requests got no answer.* --skip-failed to leave them out"):
                run(remote(unlabelled, tmp_path, server))
        run(remote(unlabelled, tmp_path, server, skip_failed=True))
    assert [row["source"] for row in rows_of(tmp_path / "out" / "rejected.jsonl")] == [order[1]]
    assert len(rows_of(tmp_path / "out" / "annotated.jsonl")) == 5


def test_answers_that_are_no_labels_are_paid_for_counted_and_left_out(unlabelled, tmp_path, capsys):
    said = iter([("label", "stop"), ("half a", "length"), (None, "stop"), ("<think>hm</think>label", "stop"),
                 ("<think>hm", "stop"), ("label", "stop")])  # fmt: skip
    with RawServer(lambda connection, _: connection.sendall(response(completion(*next(said))))) as server:
        run(remote(unlabelled, tmp_path, server, workers=1))
        assert len(server.bodies) == 5
    assert [row["target"] for row in rows_of(tmp_path / "out" / "annotated.jsonl")] == ["label", "label"]
    assert [row.get("thinking") for row in rows_of(tmp_path / "out" / "annotated.jsonl")] == [None, "taken out"]
    left = rows_of(tmp_path / "out" / "rejected.jsonl")
    assert [(row["target"], row["flaw"]) for row in left] == [("half a", "cut"), ("", "empty"), ("", "thinking")]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["spent"], summary["accepted"]) == (5, 2)
    assert summary["unusable"] == {"cut": 1, "empty": 1, "thinking": 1}
    assert summary["thinking_taken_out"] == 1
    printed = capsys.readouterr().out
    assert "answers that are no labels, though paid for: 1 cut, 1 empty, 1 thinking" in printed
    assert "answers with a thinking part, which was taken out: 1" in printed
