"""`wheels bench study`: everything of a task by one recipe, on a few rows and a few steps."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.distillation.conftest import rows
from wheels.benchmarks.core.score import ScoresConfig, plain_rouge
from wheels.benchmarks.study import run as study
from wheels.benchmarks.study import table
from wheels.benchmarks.study.config import StudyConfig
from wheels.cli import main as cli
from wheels.data.tasks import Task
from wheels.errors import WheelsError
from wheels.files import read_json

SMALL = "width: 8, layers: 1, heads: 1, ff: 8, max_steps: 2, batch_size: 4, eval_limit: 2, max_target_length: 8"
TINY = f"""
teacher: {{{SMALL}, vocab_size: 280}}
students:
  ce: &student {{{SMALL}}}
  seqkd: {{<<: *student, objective: seqkd}}
  pcl-on: {{<<: *student, objective: pcl, lmbda: 0.5, path_warm_up: 0.5}}
scores: {{limit: 3, max_new_tokens: 6, metrics: [chrf, rougeL]}}
"""
POLICY = """
policy: {student: pcl-on, limit: 12, width: 8, warm_epochs: 1, rounds: 1, texts: 10, forks: 2, pseudo_references: 0,
  batch_size: 4, max_new_tokens: 6}
calibrate: {rules: [learned, maxprob], budgets: [0.1, 0.2], limit: 4, seeds: 1, max_new_tokens: 6}
curve: {rules: [learned, maxprob, random], budgets: [0, 0.2, 1], seeds: 1, resamples: 100, metrics: [chrf],
  max_new_tokens: 6}
passes: {limit: 3, budgets: [0.2], metrics: [chrf], max_new_tokens: 6}
"""


@pytest.fixture
def data(tmp_path) -> str:
    every = rows(30)
    (tmp_path / "data").mkdir()
    for split, part in {"train": every[:20], "validation": every[20:25], "test": every[25:]}.items():
        lines = [json.dumps({"source": row.source, "target": row.target}) for row in part]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "data")


def recipe_of(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_killed_and_compares_its_students(data, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    arguments = ["bench", "study", "--recipe", recipe_of(tmp_path, TINY + POLICY), "--data", data]
    arguments += ["--output", str(output), "--threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(study, "score_model", interrupt)
        assert cli.main(arguments) == cli.INTERRUPTED
    made = (output / "students" / "pcl-on" / "model.safetensors").stat().st_mtime_ns
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert (output / "students" / "pcl-on" / "model.safetensors").stat().st_mtime_ns == made
    assert shown.count("done before") == 4, "teacher and three students"
    assert "\ntest\nname" in shown
    content = read_json(output / "students.json")
    assert content["rows"] == {"validation": 3, "test": 3}
    models = {line["name"]: line for line in content["models"]}
    assert list(models) == ["teacher", "ce", "seqkd", "pcl-on"]
    assert models["teacher"]["parameters"] == models["ce"]["parameters"] > 0
    assert models["teacher"]["teacher_tokens"] == models["ce"]["teacher_tokens"] == 0
    assert models["seqkd"]["teacher_tokens"] > 20, "20 sources, each of at least one token"
    assert models["pcl-on"]["teacher_tokens"] > 8, "2 steps of 4 rows"
    assert all(line["seconds"] > 0 and line["steps"] == 2 for line in models.values())
    assert set(models["ce"]["test"]) == {"chrf", "rougeL", "rougeL_plain"}
    table = list(csv.DictReader((output / "students.csv").open()))
    assert [row["name"] for row in table] == list(models)
    assert float(table[2]["test_chrf"]) == models["seqkd"]["test"]["chrf"]
    assert (output / "curve" / "report.html").is_file()
    assert (output / "passes" / "passes.json").is_file()
    assert cli.main(arguments) == 0
    assert "done before" in capsys.readouterr().out
    assert read_json(output / "resolved.json")["config"]["recipe"].endswith("recipe.yaml")


def test_missing_sections_are_left_out(data, tmp_path):
    plan = study.StudyPlan(study.read_recipe(recipe_of(tmp_path, TINY)), data, tmp_path / "out", None)
    names = [stage.name for stage in study.study_stages(plan)]
    assert names[:4] == ["teacher", "student-ce", "student-seqkd", "student-pcl-on"]
    assert names[4:] == ["score-teacher", "score-ce", "score-seqkd", "score-pcl-on", "students"]
    text = TINY + POLICY.split("curve:")[0]
    plan = study.StudyPlan(study.read_recipe(recipe_of(tmp_path, text)), data, tmp_path, None)
    assert [stage.name for stage in study.study_stages(plan)][9:] == ["policy", "calibrate"]


FRONTIER = """
policy: {student: [ce, pcl-on], limit: 12, width: 8, warm_epochs: 1, rounds: 1, texts: 10, forks: 2,
  pseudo_references: 0, batch_size: 4, max_new_tokens: 6}
frontier: {rules: [learned, margin], budgets: [0.2], metrics: [chrf], resamples: 100, max_new_tokens: 6,
  time_batches: []}
"""


def test_several_students_learn_when_to_call_and_stand_on_one_frontier(tmp_path):
    plan = study.StudyPlan(study.read_recipe(recipe_of(tmp_path, TINY + FRONTIER)), "data", tmp_path, None)
    stages = {stage.name: stage for stage in study.study_stages(plan)}
    assert [*stages][-3:] == ["policy-ce", "policy-pcl-on", "frontier"]
    train = stages["policy-pcl-on"].run.args[0]
    assert (train.student, train.output) == (str(tmp_path / "students/pcl-on"), str(tmp_path / "models/pcl-on"))
    config = stages["frontier"].run.args[0]
    places = ("models/ce", "students/seqkd", "models/pcl-on")
    assert config.students == tuple(str(tmp_path / place) for place in places), "plain where none was taught"
    assert config.teacher == str(tmp_path / "teacher") and config.output == str(tmp_path / "frontier")


POLICIES = """
policy: {limit: 12, seed: 3}
policies: {alone: {student: ce, texts: 7}, together: {student: ce, train: student}, other: {student: seqkd, seed: 4}}
frontier: {budgets: [0.2]}
"""


def test_several_policies_of_one_student_stand_on_one_frontier(tmp_path):
    plan = study.StudyPlan(study.read_recipe(recipe_of(tmp_path, TINY + POLICIES)), "data", tmp_path, None)
    stages = {stage.name: stage for stage in study.study_stages(plan)}
    assert [*stages][-4:] == ["policy-alone", "policy-together", "policy-other", "frontier"]
    configs = [stages[f"policy-{name}"].run.args[0] for name in ("alone", "together", "other")]
    assert [Path(config.student).name for config in configs] == ["ce", "ce", "seqkd"]
    assert [(config.limit, config.seed, config.train) for config in configs] == [
        (12, 3, "head"),
        (12, 3, "student"),
        (12, 4, "head"),
    ]
    assert (configs[0].texts, configs[1].texts) == (7, type(configs[1]).texts)
    places = ("models/alone", "models/together", "models/other", "students/pcl-on")
    assert stages["frontier"].run.args[0].students == tuple(str(tmp_path / place) for place in places)


def test_the_whole_policy_is_compared_with_its_parts_alike(tmp_path):
    plan = study.StudyPlan(study.read_recipe("whole-policy"), "data", tmp_path, None)
    stages = {stage.name: stage for stage in study.study_stages(plan)}
    configs = {name: stages[f"policy-{name}"].run.args[0] for name in ("came", "further", "together")}
    assert [config.train for config in configs.values()] == ["head", "head", "student"]
    own = ("student", "output", "texts", "train", "turns", "student_texts")
    shared = [{name: value for name, value in vars(config).items() if name not in own} for config in configs.values()]
    assert shared[0] == shared[1] == shared[2]
    came, further = map(plan.pretrained, plan.students)
    assert further.student == came.output and came.cached_logits == further.cached_logits == 32


@pytest.mark.slow
def test_a_frontier_by_a_recipe_makes_its_models_first(data, tmp_path, capsys):
    arguments = [
        "bench",
        "frontier",
        "--recipe",
        recipe_of(tmp_path, TINY + FRONTIER),
        "--data",
        data,
        "--threads",
        "1",
    ]
    assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    found = read_json(tmp_path / "out" / "frontier" / "frontier.json")
    assert [student["name"] for student in found["students"]] == ["ce", "seqkd", "pcl-on"]
    assert {point["line"] for point in found["points"]} >= {"ce, learned", "seqkd, margin", "pcl-on, margin"}
    assert "the cheapest way, chosen on other rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (
            "frontier-multi30k",
            {"tiny": (24, 2, 64, 1), "small": (48, 2, 96, 1), "medium": (80, 4, 224, 2), "large": (96, 4, 288, 3)},
        ),
        ("frontier-tatoeba", {"medium": (64, 4, 192, 2), "large": (96, 4, 288, 2)}),
    ],
)
def test_the_frontier_distils_all_sizes_by_one_rule(tmp_path, name, sizes):
    plan = study.StudyPlan(study.read_recipe(name, "there"), "data", tmp_path, None, "there")
    configs = {student: plan.pretrained(student) for student in plan.students}
    assert {student: (c.width, c.heads, c.ff, c.layers) for student, c in configs.items()} == sizes
    alike = ("objective", "epochs", "batch_size", "learning_rate", "cached_logits", "teacher", "seed", "metric")
    assert len({tuple(getattr(config, name) for name in alike) for config in configs.values()}) == 1
    assert [stage.name for stage in study.study_stages(plan)][-1] == "frontier"


@pytest.mark.parametrize("name", ["multi30k", "tatoeba", "sentence-compression"])
def test_shipped_recipes_are_whole(tmp_path, name):
    plan = study.StudyPlan(study.read_recipe(name), "data", tmp_path, 2)
    objectives = {student: plan.pretrained(student) for student in plan.students}
    assert {c.objective for c in objectives.values()} == {"ce", "kl", "jsd", "seqkd", "pcl"}
    assert objectives["ce"].teacher is None and objectives["ce"].tokenizer == str(tmp_path / "teacher")
    assert objectives["pcl-on"].lmbda == 0.5 and objectives["pcl-off"].lmbda == 0.0
    assert len({(c.width, c.layers, c.epochs, c.batch_size, c.learning_rate) for c in objectives.values()}) == 1
    names = [stage.name for stage in study.study_stages(plan)]
    assert names[-5:] == ["students", "policy", "calibrate", "curve", "passes"]
    assert plan.pretrained("teacher").family == objectives["kl"].family


@pytest.mark.parametrize(("task", "layers"), [("compression", 8), ("scitldr", 10), ("svamp", 8)])
def test_a_pretrained_student_is_a_part_of_the_teacher_that_was_fine_tuned(tmp_path, task, layers):
    recipe = f"smollm2-{task}"
    plan = study.StudyPlan(study.read_recipe(recipe), "data", tmp_path, 2)
    teacher, student = plan.pretrained("teacher"), plan.pretrained("kl")
    assert (teacher.student, teacher.keep_layers) == ("HuggingFaceTB/SmolLM2-135M-Instruct", None)
    assert (student.student, student.teacher, student.keep_layers) == (*[str(tmp_path / "teacher")] * 2, layers)
    names = [stage.name for stage in study.study_stages(plan)]
    assert names[-5:] == ["students", "policy", "calibrate", "curve", "passes"]
    here = study.StudyPlan(study.read_recipe(recipe), "data", tmp_path, 2, start="there")
    assert here.pretrained("teacher") == dataclasses.replace(teacher, student="there")
    with pytest.raises(WheelsError, match="start 'a' is for a teacher that is trained; --teacher is there already"):
        StudyConfig(recipe="r", data="d", teacher="b", start="a")


def test_the_objectives_are_compared_alike(tmp_path):
    plan = study.StudyPlan(study.read_recipe("objectives", "there"), "data", tmp_path, 2, "there")
    configs = {student: plan.pretrained(student) for student in plan.students}
    rates = {"ce-more": 3e-3, "kl": 1e-2, "gkd": 3e-3, "pcl-law": 3e-3, "pcl-off": 1e-3, "pcl-on": 1e-3}
    assert set(configs) == {"ce", *(f"{kind}-{seed}" for kind in rates for seed in range(3))}
    start = configs.pop("ce")
    assert (start.student, start.teacher, start.tokenizer) == (None, None, "there")
    for name, config in configs.items():
        assert config.seed == int(name[-1]), name
        assert config.student == str(tmp_path / "students" / "ce")
        assert (config.max_steps, config.learning_rate, config.batch_size) == (400, rates[name[:-2]], 32)
        assert config.lmbda == (0.5 if name.startswith(("gkd", "pcl-law", "pcl-on")) else 0.0)
        laws = ("both", 0.0) if name.startswith("pcl-law") else ("written", 1.0)
        assert (config.path_distribution, config.path_gamma) == laws
        assert config.teacher == (None if name.startswith("ce") else "there")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("students: {}", "must have the section teacher"),
        (TINY + "policy: {limit: 3}", "policy: must say on which student, such as `student: ce`"),
        (TINY + "policies: {one: {limit: 3}}", "policies: one: must say on which student, such as `student: ce`"),
        (TINY + "policies: {one: 3}", "policies: one: must say on which student"),
        (TINY + "policies: {one: {student: cf}}", "policies: one: student must be one of ce, seqkd, pcl-on, got 'cf'"),
        (TINY + "policy: {student: ce}\npolicies: {one: {student: ce}}", "each of the policies has its own student"),
        (TINY + "policies: {one: {student: ce}}\ncurve: {seeds: 1}", "curve and passes are of one pair"),
        (TINY + "policy: {student: pcl-of}", "policy: student must be one of ce, seqkd, pcl-on.*did you mean 'pcl-on'"),
        (TINY + "curve: {seeds: 1}", "calibrate, curve and passes need the section policy"),
        (TINY + "policy: {student: [ce, pcl-of]}", "policy: student must be one of ce, seqkd, pcl-on"),
        (TINY + "policy: {student: [ce]}\ncurve: {seeds: 1}", "curve and passes are of one pair"),
        (TINY + "curves: {}", "unknown section 'curves'; did you mean 'curve'"),
        ("teacher: {width: 8}\nstudents: {kl: 3}", "students: kl must hold `key: value` lines, got 3"),
        ("teacher: {width: 8}\nstudents: {teacher: {}}", "students: 'teacher' cannot be the name"),
        ("teacher: {width: 8}\nstudents: {a/b: {}}", "students: 'a/b' cannot be the name"),
        ("teacher: {width: 8}\nstudents: {kl: {objektive: kl}}", "students: kl: unknown key 'objektive'"),
        ("teacher: {output: x}", "teacher: output is set by the run itself"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_work(data, tmp_path, text, message):
    with pytest.raises(WheelsError, match=f"recipe.yaml: .*{message}"):
        study.run(StudyConfig(recipe=recipe_of(tmp_path, text), data=data, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WheelsError, match=r"no recipe .multi31k.: .*did you mean .multi30k"):
        study.read_recipe("multi31k")


def test_baselines_of_summarization():
    """By hand: lead-2 of 'A b. c' is 'A b.'; against 'A b d' 1 of 2 words of white space is right, 1 of 3 there."""
    from wheels.data.rows import Row

    split = [Row("A b. c", "A b d")]
    task = Task("t", {"train": split, "validation": split, "test": split}, metrics=("rougeL", "rouge1"))
    lead, source = table.baselines(task, ScoresConfig(lead=2))
    assert (lead["name"], source["name"]) == ("lead-2", "source")
    assert lead["test"]["rougeL_plain"] == lead["test"]["rouge1_plain"] == 40.0
    assert lead["test"]["rougeL"] == 80.0, "letters and digits alone: a b"
    assert source["validation"]["rouge1_plain"] == pytest.approx(33.33)
    assert plain_rouge("rouge1", ["runs"], ["run"]) == 0.0, "no stemming"
    assert plain_rouge("rouge1", ["Run"], ["run"]) == 0.0, "as they stand"
    assert table.baselines(Task("t", {"train": split}), ScoresConfig()) == []
    lines = [lead, source]
    cells = list(csv.reader(table.as_csv(lines).splitlines()))
    assert cells[0][:3] == ["name", "objective", "parameters"] and cells[1][2] == ""
    assert "lead-2" in table.as_text(lines) and table.as_text(lines).count("source") == 2


@pytest.mark.slow
def test_a_teacher_that_is_there_and_a_student_that_goes_on(data, tmp_path, capsys):
    first = tmp_path / "first"
    arguments = ["bench", "study", "--data", data, "--threads", "1"]
    alone_ = recipe_of(tmp_path, f"teacher: {{{SMALL}, vocab_size: 280}}\nscores: {{limit: 2, metrics: [chrf]}}\n")
    assert cli.main([*arguments, "--recipe", alone_, "--output", str(first)]) == 0
    text = f"""
students:
  ce: &student {{{SMALL}}}
  longer: {{<<: *student, student: ce, objective: kl, learning_rate: 0.0}}
  anew: {{<<: *student, objective: kl, learning_rate: 0.0, seed: 5}}
scores: {{limit: 2, metrics: [chrf], max_new_tokens: 6}}
"""
    given = [*arguments, "--recipe", recipe_of(tmp_path, text), "--output", str(tmp_path / "second")]
    assert cli.main(given) == 2 and "or give one that is there, by --teacher" in capsys.readouterr().err
    assert cli.main([*given, "--teacher", str(first / "teacher")]) == 0
    weights = [
        (tmp_path / "second" / "students" / name / "model.safetensors").read_bytes() for name in ("ce", "longer")
    ]
    assert weights[0] == weights[1], "at rate 0 it ends where it began"
    assert (tmp_path / "second" / "students" / "anew" / "model.safetensors").read_bytes() != weights[0]
    models = {line["name"]: line for line in read_json(tmp_path / "second" / "students.json")["models"]}
    assert models["teacher"]["steps"] == "" and models["longer"]["teacher_tokens"] > 8
    assert models["teacher"]["test"] == read_json(first / "students.json")["models"][0]["test"]
    assert not (tmp_path / "second" / "teacher").exists()
    capsys.readouterr()
    other = shutil.copytree(tmp_path / "second" / "students" / "anew", tmp_path / "other")
    assert cli.main([*given, "--teacher", str(other)]) == 2
    assert "holds a run with teacher_digest" in capsys.readouterr().err
