import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from wheels.benchmarks.core import stages
from wheels.benchmarks.core.recipe import Recipe
from wheels.benchmarks.core.stages import Stage, run_stages
from wheels.benchmarks.demo import retrain
from wheels.benchmarks.demo import run as demo
from wheels.benchmarks.demo.config import DemoConfig
from wheels.cli import main as cli
from wheels.config.parsing import parse
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError
from wheels.output.notices import in_words
from wheels.runs import LOCK, locked
from wheels.runs.claim import LOGS

INPUTS = {"command": "demo", "wheels": "1"}
CONFIG = DemoConfig()
# Small enough for seconds: it must run, not be good.
TINY = """
sentences: {train: 60, validation: 8, test: 6}
distil: {objective: kl, max_steps: 4, batch_size: 8, eval_every: 2, eval_limit: 4, metric: chrf}
train: {limit: 30, width: 8, warm_epochs: 1, rounds: 1, texts: 10, forks: 2, pseudo_references: 1, batch_size: 8}
calibrate: {rules: [learned, maxprob], budgets: [0.1, 0.2, 0.3], limit: 6}
curve: {rules: [learned, maxprob, random], budgets: [0, 0.2, 1], seeds: 1, resamples: 100, metrics: [chrf]}
examples: {rows: 2}
"""


class Recorder:
    """Stages that note that they ran, and leave a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran, self.failing = folder, [], {}

    def stages(self, **settings: dict) -> list[Stage]:
        return [
            Stage(name, f"doing {name}", (self.folder / name,), settings.get(name, {}), self.work(name), shown)
            for name, shown in (("one", False), ("two", True), ("three", False))
        ]

    def work(self, name: str):
        def run() -> None:
            self.ran.append(name)
            if name in self.failing:
                raise self.failing.pop(name)
            (self.folder / name).mkdir(exist_ok=True)
            for file in ("result", "more"):
                (self.folder / name / file).write_text(name)
            print(f"{name} printed this")

        return run


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path / "out")


def test_stages_run_in_order_and_a_second_run_only_shows(recorder, capsys):
    seconds = run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    first = capsys.readouterr().out
    assert recorder.ran == ["one", "two", "three"]
    assert list(seconds) == recorder.ran
    assert "[1/3] doing one\n" in first
    assert "two printed this" in first
    assert "one printed this" not in first

    assert run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS) == seconds
    again = capsys.readouterr().out
    assert recorder.ran == ["one", "two", "three"]
    assert again.count("done before") == 3
    assert "two printed this" in again


def test_an_interrupted_stage_runs_again_and_those_before_it_do_not(recorder):
    recorder.failing["two"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert recorder.ran == ["one", "two", "two", "three"]


def test_the_time_of_an_interrupted_stage_counts(recorder, monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 21.5, 30.0, 30.0])  # one: 5 s; two: cut after 2 s, then 1.5 s
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    recorder.failing["two"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS) == {"one": 5.0, "two": 3.5, "three": 0.0}


def test_a_stage_whose_result_is_gone_runs_again_with_those_after_it(recorder):
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    (recorder.folder / "two" / "result").unlink()
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert recorder.ran == ["one", "two", "three", "two", "three"]


@pytest.mark.parametrize("damaged", ["two/more", "printed/two.txt"])
def test_a_stage_with_a_damaged_file_runs_again_with_those_after_it(recorder, damaged, capsys):
    """Any file of a folder that it leaves, and what it printed; not the log of a run."""
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    first = capsys.readouterr().out
    for log in LOGS:
        (recorder.folder / "two" / log).write_text("other")
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert recorder.ran == ["one", "two", "three"]
    (recorder.folder / damaged).write_text("other")
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert recorder.ran == ["one", "two", "three", "two", "three"]
    assert "two printed this" in first and "two printed this" in capsys.readouterr().out


def test_an_interruption_while_a_stage_is_repeated_leaves_nothing_after_it_done(recorder):
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    (recorder.folder / "one" / "result").unlink()
    recorder.failing["two"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert recorder.ran[3:] == ["one", "two", "two", "three"]


def test_other_settings_are_refused_in_the_same_folder(recorder):
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    with pytest.raises(WheelsError, match=r"holds a run with another recipe.*differs in 'two'"):
        run_stages(recorder.folder, CONFIG, recorder.stages(two={"steps": 3}), INPUTS)
    with pytest.raises(WheelsError, match="with wheels '1', not '2'"):
        run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS | {"wheels": "2"})
    assert recorder.ran == ["one", "two", "three"]


class Grid(Recorder):
    """A root, cells that depend on it alone, and a table of them all."""

    def grid(self, *cells: str, again: bool = True, **settings: dict) -> list[Stage]:
        def stage(name: str, **others) -> Stage:
            place = (self.folder / name / "result",)
            return Stage(name, f"doing {name}", place, settings.get(name, {}), self.work(name), **others)

        children = [stage(name, after=("root",)) for name in cells]
        return [stage("root", after=()), *children, stage("table", shown=True, again=again)]


@pytest.fixture
def grid(tmp_path):
    return Grid(tmp_path / "out")


def test_a_run_grows_in_its_folder(grid):
    run_stages(grid.folder, CONFIG, grid.grid("b"), INPUTS)
    run_stages(grid.folder, CONFIG, grid.grid("a", "b", "c"), INPUTS)
    assert grid.ran == ["root", "b", "table", "a", "c", "table"], "the cell that was there is not done again"
    run_stages(grid.folder, CONFIG, grid.grid("a", "b", "c"), INPUTS)
    run_stages(grid.folder, CONFIG, grid.grid("c"), INPUTS)
    assert grid.ran[6:] == ["table"], "and may shrink"
    run_stages(grid.folder, CONFIG, grid.grid("c", table={"resamples": 9}), INPUTS)
    assert grid.ran[7:] == ["table"], "what is cheap is made again with other settings"
    with pytest.raises(WheelsError, match="with wheels '1', not '2'"):
        run_stages(grid.folder, CONFIG, grid.grid("c"), INPUTS | {"wheels": "2"})


def test_what_would_be_done_again_at_a_cost_is_refused(grid):
    run_stages(grid.folder, CONFIG, grid.grid("b", again=False), INPUTS)
    with pytest.raises(WheelsError, match="differs in 'table'"):
        run_stages(grid.folder, CONFIG, grid.grid("a", "b", again=False), INPUTS)
    with pytest.raises(WheelsError, match="differs in 'b'"):
        run_stages(grid.folder, CONFIG, grid.grid("b", again=False, b={"steps": 3}), INPUTS)
    assert grid.ran == ["root", "b", "table"]


def test_only_what_depends_on_a_lost_result_is_done_again(grid):
    run_stages(grid.folder, CONFIG, grid.grid("a", "b"), INPUTS)
    (grid.folder / "a" / "result").unlink()
    run_stages(grid.folder, CONFIG, grid.grid("a", "b"), INPUTS)
    assert grid.ran[4:] == ["a", "table"]
    (grid.folder / "root" / "result").unlink()
    run_stages(grid.folder, CONFIG, grid.grid("a", "b"), INPUTS)
    assert grid.ran[6:] == ["root", "a", "b", "table"]


def test_a_folder_of_something_else_is_left_alone(recorder):
    recorder.folder.mkdir()
    (recorder.folder / "thesis.tex").write_text("mine")
    with pytest.raises(WheelsError, match="holds something else"):
        run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert [path.name for path in recorder.folder.iterdir()] == ["thesis.tex"]


def test_seconds_in_words():
    assert [in_words(seconds) for seconds in (0.04, 59.9, 60.2, 125)] == ["0.0 s", "59.9 s", "1 min 00 s", "2 min 05 s"]


def test_the_teachers_tokens_stand_in_brackets():
    spans = [("student", "The"), ("teacher", " old"), ("teacher", " mill"), ("student", "er"), ("teacher", ".")]
    assert demo.marked(spans) == "The [old mill]er[.]"
    assert demo.marked([("teacher", " "), ("student", "a")]) == " a"
    assert demo.marked([]) == ""


def recipe_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill: {}", "recipe.yaml: unknown section 'distill'; did you mean 'distil'"),
        ("distil: {objektive: kl}", "recipe.yaml: distil: unknown key 'objektive'; did you mean 'objective'"),
        ("curve: {budgets: [20]}", "recipe.yaml: curve: budgets must be in .*did you mean 0.2"),
        ("train: {output: here}", "recipe.yaml: train: output is set by the run itself"),
        ("distil: 3", "recipe.yaml: must hold sections"),
        ("a: [", "recipe.yaml:1: not YAML"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_work(tmp_path, text, message):
    output = tmp_path / "out"
    with pytest.raises(WheelsError, match=message):
        demo.run(DemoConfig(recipe=recipe_of(tmp_path, text), output=str(output)))
    assert not output.exists()


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WheelsError, match=r"cannot read .*no\.yaml"):
        demo.run(DemoConfig(recipe=str(tmp_path / "no.yaml"), output=str(tmp_path / "out")))


def test_the_shipped_recipes_are_whole(tmp_path):
    recipe = Recipe.read("demo", demo.SECTIONS)
    assert [stage.name for stage in demo.demo_stages(DemoConfig(), tmp_path, recipe)] == list(demo.SECTIONS)
    recipe = Recipe.read(retrain.RECIPE, retrain.SECTIONS)
    names = [stage.name for stage in retrain.retrain_stages(DemoConfig(), tmp_path, recipe)]
    assert [name for name in names if name in retrain.SECTIONS] == list(retrain.SECTIONS)


@pytest.mark.slow
def test_a_demo_runs_continues_and_repeats_at_once(tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    arguments = ["demo", "--output", str(output), "--recipe", recipe_of(tmp_path, TINY), "--threads", "1"]
    command = demo.command
    stop = {CalibrateConfig: interrupt}
    monkeypatch.setattr(demo, "command", lambda config: stop.get(type(config), command)(config))
    assert cli.main(arguments) == cli.INTERRUPTED
    assert "run the same command again" in capsys.readouterr().err
    monkeypatch.setattr(demo, "command", command)
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.count("done before") == 3
    assert "chrF at equal teacher use" in shown
    assert "together" in shown
    for name in ("curve/report.html", "curve/curve.png", "examples.html", "model/deferral/calibration.json"):
        assert (output / name).stat().st_size > 0, name
        assert name.split("/deferral")[0] in shown

    def refuse(*_: object) -> None:
        raise AssertionError("a finished stage must not run again")

    for stage in ("write_sentences", "distil", "command", "write_examples"):
        monkeypatch.setattr(demo, stage, refuse)
    assert cli.main(arguments) == 0
    again = capsys.readouterr().out
    assert again.count("done before") == 6
    assert "chrF at equal teacher use" in again
    assert json.loads((output / "resolved.json").read_text())["recipe"]["distil"]["max_steps"] == 4


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_retrain_refuses_a_place_that_is_no_pair(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(WheelsError, match="holds something else than a pair"):
        retrain.output_folder(DemoConfig(retrain=True, output=str(tmp_path)))
    with pytest.raises(WheelsError, match=r"cannot write .*Not a directory at .*thesis\.tex; give another --output"):
        retrain.output_folder(DemoConfig(retrain=True, output=str(tmp_path / "thesis.tex" / "pair")))
    monkeypatch.setattr(retrain, "embedded_pair", lambda: tmp_path / "site-packages" / "wheels" / "assets" / "pair")
    with pytest.raises(WheelsError, match=r"belongs to an installed package.*--output DIR"):
        retrain.output_folder(DemoConfig(retrain=True))
    assert retrain.output_folder(DemoConfig(retrain=True, output=str(tmp_path / "new"))) == tmp_path / "new"


@pytest.mark.parametrize("task", ["..", ".", "/", "model", "../student", "embedded-translation:de-en"])
def test_the_sentences_stay_within_the_folder_whatever_the_task_is_called(tmp_path, task, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(tmp_path, {name: {} for name in demo.SECTIONS} | {"sentences": {"task": task}})
    output = tmp_path / "out"
    results = {stage.name: stage.results for stage in demo.demo_stages(DemoConfig(), output, recipe)}
    (folder,) = results["sentences"]
    assert folder.parent == (output / "sentences").resolve()
    assert folder.resolve() == folder
    assert folder.name not in ("", ".", "..")


def test_a_recipe_does_not_choose_a_place_to_write(tmp_path):
    with pytest.raises(WheelsError, match=r"recipe.yaml: distil: cache is set by the run itself; take it out"):
        recipe = recipe_of(tmp_path, "distil: {objective: kl, cached_logits: 8, cache: ../caches}")
        demo.run(DemoConfig(recipe=recipe, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_stage_is_known_by_what_the_files_in_its_settings_hold(tmp_path):
    options = tmp_path / "options.yaml"
    recipe = Recipe(tmp_path, {name: {} for name in demo.SECTIONS} | {"distil": {"options": str(options)}})

    def key() -> str:
        stages_ = demo.demo_stages(DemoConfig(), tmp_path / "out", recipe)
        return stages.stage_key(stages_[1])

    options.write_text("weight_decay: 0.0\n")
    before = key()
    assert key() == before
    options.write_text("weight_decay: 0.5\n")
    assert key() != before


def test_a_run_of_another_command_is_left_alone(recorder, tmp_path):
    run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    other = Stage("teacher", "training", (tmp_path / "x",), {}, lambda: pytest.fail("the work began"))
    with pytest.raises(WheelsError, match="holds a run of the command demo, not of bench study; give another --output"):
        run_stages(recorder.folder, CONFIG, [other], INPUTS | {"command": "bench study"})


def test_one_run_at_a_time(recorder):
    with (
        locked(recorder.folder / LOCK, recorder.folder),
        pytest.raises(WheelsError, match="is held by another process"),
    ):
        run_stages(recorder.folder, CONFIG, recorder.stages(), INPUTS)
    assert recorder.ran == []


def test_retrain_replaces_no_model_of_a_user(tmp_path):
    """What `wheels train` wrote has heads too; only what the command itself wrote may be replaced."""
    place = tmp_path / "model"
    (place / "deferral").mkdir(parents=True)
    (place / "deferral" / "config.json").write_text("{}")
    (place / "resolved.json").write_text('{"config": {"student": "s"}}')
    with pytest.raises(WheelsError, match="model holds something else than a pair"):
        retrain.output_folder(DemoConfig(retrain=True, output=str(place)))
    (place / "resolved.json").write_text('{"config": {"retrain": true}}')
    assert retrain.output_folder(DemoConfig(retrain=True, output=str(place))) == place


def test_the_command_at_the_end_runs_as_it_is_printed(tmp_path):
    words = demo.ending(tmp_path / "my demo", {"train": 1.0}, 2.0)
    command = shlex.split(next(line for line in words.splitlines() if "wheels generate" in line).split(": ", 1)[1])
    config = parse(GenerateConfig, command[2:], prog="wheels generate")
    assert (command[:2], config.model) == (["wheels", "generate"], str(tmp_path / "my demo" / "model"))
