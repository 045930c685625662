"""`wheels annotate` as a whole: small models in folders, a local server, one stage and two, killed and resumed."""

from __future__ import annotations

import json

import pytest

from tests.annotation.faulty_server import FaultyServer
from tests.endpoints.raw_server import RawServer, completion, response
from wheels.annotation import models as annotate_models
from wheels.annotation.answer import Answer
from wheels.annotation.assistant import PromptAssistant
from wheels.annotation.config import AnnotateConfig
from wheels.annotation.ledger import read_account
from wheels.annotation.local_model import LocalModel
from wheels.annotation.run import run
from wheels.cli.main import main
from wheels.config.parsing import build
from wheels.errors import WheelsError


@pytest.fixture
def unlabelled(task, tmp_path):
    sources = dict.fromkeys(row.source for row in task.train)
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"source": source}) + "\n" for source in sources))
    (tmp_path / "retrain.yaml").write_text("max_steps: 1\nbatch_size: 8\neval_limit: 4\n")
    return str(tmp_path / "pool.jsonl")


def settings(unlabelled, tmp_path, folders, data, **more):
    student, teacher = folders
    given = {"input": unlabelled, "output": str(tmp_path / "out"), "annotation_budget": 12, "teacher": teacher,
             "assistant": teacher, "student": student, "data": data, "metric": "chrf", "samples": 2, "warm_up": 0.25,
             "max_new_tokens": 12, "batch_size": 8, "retrain": str(tmp_path / "retrain.yaml"), "threads": 1,
             "limit": 24}  # fmt: skip
    return build(AnnotateConfig, given | more)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def remote(unlabelled, tmp_path, server, **more):
    given = {"input": unlabelled, "output": str(tmp_path / "out"), "annotation_budget": 5, "select": "random",
             "teacher": server.url, "teacher_model": "m", "attempts": 2, "backoff": 0.001, "timeout": 30.0,
             "workers": 3}  # fmt: skip
    return build(AnnotateConfig, given | more)


@pytest.mark.slow
def test_a_run_that_is_cut_short_ends_as_one_that_is_not(unlabelled, tmp_path, folders, data, monkeypatch, capsys):
    run(settings(unlabelled, tmp_path, folders, data))
    said, out = capsys.readouterr().out, tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["spent"], summary["budget"]) == (12, 12)
    assert {name: stage["selected"] for name, stage in summary["stages"].items()} == {"warm-up": 3, "main": 9}
    assert sum(summary["grades_of_annotations"].values()) == 12
    assert summary["accepted"] == len(rows_of(out / "annotated.jsonl")) == 12 - len(rows_of(out / "rejected.jsonl"))
    assert "12 of 12 annotations spent" in said

    again = settings(unlabelled, tmp_path, folders, data, output=str(tmp_path / "cut"), workers=3)
    for place, name, after in ((annotate_models, "retrain", 0), (LocalModel, "samples", 1), (LocalModel, "labels", 1)):
        real, calls = getattr(place, name), []

        def fails(*args, real=real, calls=calls, after=after, **options):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return real(*args, **options)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, fails)
            run(again)
    run(again)
    for name in ("annotated.jsonl", "rejected.jsonl", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (out / name).read_bytes()
    capsys.readouterr()
    run(again)
    assert capsys.readouterr().out == said


@pytest.mark.slow
def test_the_labelled_file_holds_what_was_asked_for(unlabelled, tmp_path, folders, data):
    run(settings(unlabelled, tmp_path, folders, data, filter=False, select="consistency"))
    teacher = LocalModel.load(folders[1], role="teacher", max_new_tokens=12, batch_size=8)
    rows = rows_of(tmp_path / "out" / "annotated.jsonl") + rows_of(tmp_path / "out" / "rejected.jsonl")
    labels = teacher.labels([row["source"] for row in rows])
    assert [(row["target"], row.get("flaw")) for row in rows] == [(label.text.strip(), label.flaw) for label in labels]
    assert list(rows[0])[:5] == ["source", "target", "grade", "consistency", "stage"]
    main = [row["consistency"] for row in rows if row["stage"] == "main"]
    assert main == sorted(main)
    assert all(row["grade"] is None for row in rows)


@pytest.mark.slow
def test_remote_teacher_and_assistant_grade_and_filter(unlabelled, tmp_path, folders, data, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-teacher")
    monkeypatch.setenv("ASSISTANT_KEY", "sk-assistant")
    with (
        FaultyServer(share=0.2, hang=0.02, answer=lambda prompt: prompt.split("Question: ")[-1]) as teacher,
        FaultyServer(
            share=0.2, hang=0.02, answer=lambda prompt: "wrong answer" if "Hund" in prompt else "Very confident!"
        ) as assistant,
    ):
        more = {"teacher": teacher.url, "teacher_model": "big", "assistant": assistant.url, "assistant_model": "m",
                "teacher_key": "TEACHER_KEY", "assistant_key": "ASSISTANT_KEY", "demonstrations": 2, "warm_up": 0.0,
                    "annotation_budget": 20,
                "timeout": 0.2, "backoff": 0.01, "attempts": 40}  # fmt: skip
        run(settings(unlabelled, tmp_path, folders, data, **more))
        out = tmp_path / "out"
        assert len(teacher.charged) == 20
        for server, key in ((teacher, "sk-teacher"), (assistant, "sk-assistant")):
            assert {request["headers"]["authorization"] for request in server.requests} == {f"Bearer {key}"}
        prompt = next(iter(teacher.charged.values()))
        assert prompt.count("Question: ") == 3
        assert prompt.endswith("\nAnswer:")
        shown = prompt.split("\n\n")[0]
        assert all(one.startswith(shown) for one in teacher.charged.values()), "the same demonstrations in each"
        kept, left = rows_of(out / "annotated.jsonl"), rows_of(out / "rejected.jsonl")
        assert len(kept) + len(left) == 20
        assert left
        assert kept
        assert all("Hund" in row["source"] + row["target"] for row in left)
        assert {row["grade"] for row in kept} <= {"very confident"}
        assert read_account(out / "grades.jsonl").spent == len(assistant.charged) <= 24 + 20
    for file in out.rglob("*"):
        assert file.is_dir() or b"sk-" not in file.read_bytes(), file


def test_requests_that_fail_cost_nothing_and_are_asked_for_again(unlabelled, tmp_path):
    more = {"input": unlabelled, "output": str(tmp_path / "out"), "annotation_budget": 5, "select": "random",
            "teacher_model": "m", "attempts": 2, "backoff": 0.001, "timeout": 30.0}  # fmt: skip
    with FaultyServer(faults=["500"], share=1.0) as server:
        config = build(AnnotateConfig, more | {"teacher": server.url})
        with pytest.raises(WheelsError, match="5 of 5 requests got no answer, and their units are free again"):
            run(config)
        assert read_account(tmp_path / "out" / "ledger.jsonl").spent == 0
        server.faults = ["401"]
        with pytest.raises(WheelsError, match="answers with code 401"):
            run(config)
        server.share = 0.0
        run(config)
        assert len(server.charged) == 5


def test_another_run_or_other_files_in_the_folder_are_refused(unlabelled, tmp_path):
    with FaultyServer() as server:
        more = {"input": unlabelled, "output": str(tmp_path / "out"), "annotation_budget": 5, "select": "random",
                "teacher": server.url, "teacher_model": "m"}  # fmt: skip
        run(build(AnnotateConfig, more))
        with pytest.raises(WheelsError, match="holds a run with teacher_model 'm', not 'n'; give another --output"):
            run(build(AnnotateConfig, more | {"teacher_model": "n"}))
        with pytest.raises(WheelsError, match="a budget of 5, which can only grow, got 4"):
            run(build(AnnotateConfig, more | {"annotation_budget": 4}))
        with pytest.raises(WheelsError, match="holds something else"):
            run(build(AnnotateConfig, more | {"output": str(tmp_path)}))


def test_a_higher_budget_goes_on_and_pays_nothing_twice(unlabelled, tmp_path, capsys):
    with FaultyServer() as server:
        run(remote(unlabelled, tmp_path, server))
        first = rows_of(tmp_path / "out" / "annotated.jsonl")
        run(remote(unlabelled, tmp_path, server, annotation_budget=8))
        assert len(server.requests) == len(server.charged) == 8
        whole = (tmp_path / "out" / "annotated.jsonl").read_bytes()
        assert rows_of(tmp_path / "out" / "annotated.jsonl")[:5] == first
        assert "8 of 8 annotations spent" in capsys.readouterr().out
        run(remote(unlabelled, tmp_path, server, annotation_budget=8))
        assert len(server.requests) == 8
        run(remote(unlabelled, tmp_path, server, annotation_budget=8, output=str(tmp_path / "at once")))
        assert (tmp_path / "at once" / "annotated.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_a_higher_budget_goes_to_the_main_stage_and_trains_nothing_again(unlabelled, tmp_path, folders, data):
    run(settings(unlabelled, tmp_path, folders, data))
    out = tmp_path / "out"
    first = json.loads((out / "main" / "annotations.json").read_text())
    signals = (out / "main" / "signals" / "00000.json").stat().st_mtime_ns
    student = (out / "warm-up" / "student" / "finished.json").stat().st_mtime_ns
    run(settings(unlabelled, tmp_path, folders, data, annotation_budget=20))
    assert (out / "main" / "signals" / "00000.json").stat().st_mtime_ns == signals
    assert (out / "warm-up" / "student" / "finished.json").stat().st_mtime_ns == student
    summary = json.loads((out / "summary.json").read_text())
    assert {name: stage["selected"] for name, stage in summary["stages"].items()} == {"warm-up": 3, "main": 17}
    assert (summary["spent"], summary["budget"]) == (20, 20)
    assert json.loads((out / "main" / "annotations.json").read_text())[:9] == first


@pytest.mark.parametrize("damage", ["emptied", "gone"])
def test_a_ledger_that_is_gone_or_empty_is_not_paid_for_again(damage, unlabelled, tmp_path, folders, data):
    run(settings(unlabelled, tmp_path, folders, data, assistant=None, retrain=None, select="random", warm_up=0.0))
    ledger = tmp_path / "out" / "ledger.jsonl"
    ledger.write_text("") if damage == "emptied" else ledger.unlink()
    (tmp_path / "out" / "annotated.jsonl").unlink()
    with pytest.raises(
        WheelsError, match=r"ledger\.jsonl is gone or empty, and with it the answers that were paid for"
    ):
        run(settings(unlabelled, tmp_path, folders, data, assistant=None, retrain=None, select="random", warm_up=0.0))


def test_a_start_that_failed_holds_nothing(unlabelled, tmp_path, monkeypatch):
    with FaultyServer(faults=["404"], share=1.0) as server:
        with pytest.raises(WheelsError, match="code 404"):
            run(remote(unlabelled, tmp_path, server, teacher_model="typo"))
        (tmp_path / "out" / "main" / "signals").mkdir(parents=True)
        server.share = 0.0
        run(remote(unlabelled, tmp_path, server))
        assert not (tmp_path / "out" / "main" / "signals").exists(), "another run's signals"
        assert len(rows_of(tmp_path / "out" / "annotated.jsonl")) == 5
    for more in ({"teacher": "http://h:abc"}, {"teacher": "http://me:secret@h"}, {"teacher": " ftp://me:secret@h"}):
        config = remote(unlabelled, tmp_path, server, output=str(tmp_path / "new"), **more)
        with pytest.raises(WheelsError, match="an endpoint must be") as caught:
            run(config)
        assert "secret" not in str(caught.value)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("role", ["teacher", "assistant"])
def test_a_key_that_is_given_for_the_name_of_its_variable_is_shown_and_written_nowhere(
    unlabelled, tmp_path, role, capsys
):
    arguments = ["annotate", "--input", unlabelled, "--output", str(tmp_path / "out"), "--annotation-budget", "2",
                 "--select", "random", "--teacher", "somewhere", f"--{role}-key", "sk-THESECRET42"]  # fmt: skip
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert f"--{role}-key must name an environment variable that holds the key" in said.err
    assert "SECRET" not in said.err + said.out
    assert not (tmp_path / "out").exists()


def test_a_server_that_repeats_the_key_gets_it_into_no_file(unlabelled, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-THESECRET42")
    said = iter([
        response(completion('Your key is "sk-THESECRET42"')), response(completion("sk%2DTHESECRET42")),
        response(b'{"error": {"message": "not with sk-\\u0054HESECRET42"}}', 400), response(completion()),
        response(completion()), response(b"sk-THESECRET42", 401),
    ])  # fmt: skip
    with RawServer(lambda connection, _: connection.sendall(next(said))) as server:
        with pytest.raises(WheelsError, match=r"code 401: \[key\]") as caught:
            run(remote(unlabelled, tmp_path, server, workers=1))
        assert "SECRET" not in str(caught.value) + "".join(capsys.readouterr())
        said = iter([response(completion())])
        run(remote(unlabelled, tmp_path, server, workers=1))
    left = rows_of(tmp_path / "out" / "rejected.jsonl")
    assert [row["flaw"].split(":")[0] for row in left] == ["repeats the key", "repeats the key", "refused"]
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or b"SECRET" not in file.read_bytes(), file


def test_grades_that_the_server_refuses_are_counted(unlabelled, tmp_path, capsys):
    def answer(connection, body):
        if "Katze" in body["messages"][0]["content"]:
            return connection.sendall(response(b'{"error": {"message": "content policy"}}', 400))
        return connection.sendall(response(completion("very confident")))

    with FaultyServer() as server, RawServer(answer) as assistant:
        run(remote(unlabelled, tmp_path, server, annotation_budget=24, assistant=assistant.url, assistant_model="m"))
    kept, left = rows_of(tmp_path / "out" / "annotated.jsonl"), rows_of(tmp_path / "out" / "rejected.jsonl")
    assert kept
    assert all("Katze" not in row["source"] and row["grade"] == "very confident" for row in kept)
    assert all("Katze" in row["source"] and row["grade"] == "not confident" for row in left)
    assert f"which count as not confident: {len(left)}" in capsys.readouterr().out


def test_a_grade_that_was_cut_or_refused_accepts_nothing(unlabelled, tmp_path, folders):
    replies = {
        "a": ("very confident", "stop"),
        "b": ("I am very confident that the", "length"),
        "c": ("very confident\nas the", "length"),
        "d": ("<think>very confident?</think>wrong answer", "stop"),
    }

    class Said:
        def respond(self, prompts, ledger, advance, wanted=None):
            return [Answer(replies[prompt][0], "cut" if replies[prompt][1] == "length" else None)
                    if prompt in replies else Answer("", "refused: code 400") for prompt in prompts]  # fmt: skip

    graded = PromptAssistant(Said(), "{answer}", None)
    assert graded.grade([""] * 5, ["a", "b", "c", "d", "e"], lambda count: None) == [0, 2, 0, 3, 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teacher": "http://h"}, "give --teacher-model NAME"),
        ({"teacher": " FTP://me:secret@h"}, "give --teacher-model NAME"),
        ({"teacher_model": "m"}, "is a name at an endpoint, but teacher is"),
        ({"assistant": None}, "select 'assistant' needs --assistant"),
        ({"student": None}, "select 'assistant' needs --student"),
        ({"data": None}, "a warm-up retrains the student"),
        ({"data": None, "warm_up": 0.0}, "grades by likelihood are calibrated"),
        ({"assistant": "http://h", "assistant_model": "m", "grading": "likelihood"}, "gives no likelihoods"),
        ({"teacher_prompt": "{source}"}, "must contain {source} and {demonstrations}"),
        ({"warm_up": 10}, "did you mean 0.1"),
    ],
)
def test_settings_that_contradict_each_other(more, message):
    given = {"input": "f", "output": "o", "annotation_budget": 9, "teacher": "t", "assistant": "a", "student": "s",
             "data": "d"}  # fmt: skip
    with pytest.raises(WheelsError, match=message):
        build(AnnotateConfig, given | more)


def test_a_model_that_follows_no_prompt_and_a_bad_retraining_are_told_before_anything_is_spent(
    unlabelled, tmp_path, folders, data
):
    with pytest.raises(WheelsError, match="follows no prompt; leave --demonstrations out"):
        run(settings(unlabelled, tmp_path, folders, data, demonstrations=1))
    with pytest.raises(WheelsError, match="follows no prompt; leave --grading prompt out"):
        run(settings(unlabelled, tmp_path, folders, data, grading="prompt", output=str(tmp_path / "o2")))
    (tmp_path / "retrain.yaml").write_text("output: x\n")
    with pytest.raises(WheelsError, match="output is set by the run itself"):
        run(settings(unlabelled, tmp_path, folders, data, output=str(tmp_path / "o3")))
    assert not (tmp_path / "o3").exists()
