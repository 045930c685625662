"""A rule from outside the package: `generate`, `calibrate` and `bench curve` know its words, colour and mark."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.colors
import pytest
from matplotlib.figure import Figure

import wheels
from tests.decoding.tiny import save_artefact
from tests.envs.tiny import SOURCES
from wheels.cli.main import main
from wheels.decoding.methods.rules import RULE_NAMES, RULES, find_rule, find_rules
from wheels.errors import WheelsError

COLOR, MARK, LABEL = "#123456", "h", "calls where the two best tokens are close"
CODE = f'''
import wheels

def gap_score(step):
    best_B2 = step.log_q_BV.topk(2, dim=-1).values
    return best_B2[:, 1] - best_B2[:, 0]

gap = wheels.Rule("gap", gap_score, label="{LABEL}", color="{COLOR}", mark="{MARK}")
twin = wheels.Rule("gap", lambda step: -gap_score(step))
taken = wheels.Rule("entropy", gap_score)
number = 3
'''


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "my_rules.py"
    path.write_text(CODE)
    yield path
    for name in set(RULES) - set(RULE_NAMES):
        del RULES[name]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_artefact(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, sources in {"train": SOURCES, "validation": SOURCES[1:], "test": SOURCES}.items():
        rows = [json.dumps({"source": source, "target": "a b c"}) for source in sources]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_every_command_and_the_picture_know_it(file, model, data, tmp_path, monkeypatch, capsys):
    figures: list[Figure] = []
    saved = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: figures.append(self) or saved(self, *args, **kwargs)
    )
    own = f"{file}:gap"
    generate = ["generate", "--model", str(model), "--rule", own, "--max-new-tokens", "8", "--format", "json", "a b c"]

    common = ["--data", str(data), "--model", str(model), "--rules", own, "--max-new-tokens", "8"]
    assert main(["calibrate", *common, "--budgets", "0.2,0.3,0.6"]) == 0
    assert "gap " in capsys.readouterr().out
    assert main([*generate, "--teacher-budget", "0.3"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "gap"
    assert main([*generate, "--teacher-budget", "0.9"]) == 2
    assert f"--rules {own}" in capsys.readouterr().err, "the command that calibrates it"

    output = tmp_path / "curve"
    settings = ["--budgets", "0,0.3,0.6,1", "--resamples", "100", "--output", str(output)]
    assert main(["bench", "curve", *common, *settings]) == 0
    assert json.loads((output / "curve.json").read_text())["rules"] == ["gap"]
    assert LABEL in (output / "report.html").read_text()
    axes, (legend,) = figures[0].axes[0], figures[0].legends
    (handle,), (text,) = legend.legend_handles, legend.get_texts()
    assert text.get_text() == f"gap: {LABEL}"
    assert matplotlib.colors.to_hex(handle.get_color()) == COLOR and handle.get_marker() == MARK
    assert any(line.get_color() == COLOR and len(line.get_xdata()) for line in axes.lines)


@pytest.mark.slow
def test_the_benchmark_of_passes_takes_it(file, model, data, tmp_path, capsys):
    told = ["--data", str(data), "--model", str(model), "--max-new-tokens", "8", "--budgets", "0.3,0.6"]
    assert main(["calibrate", *told, "--rules", f"{file}:gap"]) == 0
    output = tmp_path / "passes"
    flags = ["--rule", f"{file}:gap", "--families", "deferral,priced", "--resamples", "100", "--output", str(output)]
    assert main(["bench", "passes", *told, *flags]) == 0
    found = json.loads((output / "passes.json").read_text())
    assert {point["family"] for point in found["points"]} >= {"deferral"}
    assert "priced is left out: thresholds of gap are no nats" in found["notes"]


@pytest.mark.slow
def test_a_changed_rule_is_not_run_under_its_old_thresholds(file, model, data, capsys):
    own = f"{file}:gap"
    told = ["--data", str(data), "--model", str(model), "--rules", own, "--max-new-tokens", "8", "--budgets", "0.3"]
    assert main(["calibrate", *told]) == 0
    rule = wheels.Model.load(model).rule(own)
    assert wheels.deferral(rule, budget=0.3).budget == 0.3
    file.write_text(CODE.replace("best_B2[:, 1] - best_B2[:, 0]", "best_B2[:, 0]"))
    with pytest.raises(WheelsError, match=r"rule 'gap' was calibrated before .*my_rules.py:gap changed; run `wheels"):
        wheels.deferral(wheels.Model.load(model).rule(own), budget=0.3)


def test_a_module_is_a_place_too(file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    assert find_rule("my_rules:gap").color == COLOR
    sys.modules.pop("my_rules")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", r"my_rules.py has no wheels.Rule named absent; write absent = wheels.Rule\("),
        ("number", "has no wheels.Rule named number"),
        ("taken", r"my_rules.py:taken is named 'entropy', as one of the package's rules is; give it another name"),
    ],
)
def test_what_is_no_rule_is_refused(file, name, message):
    with pytest.raises(WheelsError, match=message):
        find_rule(f"{file}:{name}")


def test_places_that_cannot_be_read_and_rules_of_one_name(file):
    with pytest.raises(WheelsError, match=r"cannot read rules from none\.py: FileNotFoundError"):
        find_rule("none.py:gap")
    with pytest.raises(WheelsError, match="cannot read rules from no_such_package: ModuleNotFoundError"):
        find_rule("no_such_package:gap")
    with pytest.raises(WheelsError, match=r"two of the rules .* are named 'gap'; give one of them another name"):
        find_rules([f"{file}:gap", f"{file}:twin"])
    with pytest.raises(
        WheelsError, match=r"a rule of your own \(FILE.py:NAME or .*\), got 'entropie'; did you mean 'entropy'\?$"
    ):
        find_rule("entropie")
