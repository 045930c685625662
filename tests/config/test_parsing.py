import dataclasses
import json
import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import wheels
from wheels.config.fields import REQUIRED, check_fields, fields_of, option
from wheels.config.parsing import as_command, build, parse, to_dict, write_resolved
from wheels.errors import WheelsError


@dataclass(frozen=True)
class Example:
    text: str | None = option(None, "what to say", positional=True)
    teacher_budget: float = option(0.2, "the share of 20% and so on", share=True)
    rule: str = option("learned", "the rule", choices=("learned", "entropy", "margin"))
    rules: tuple[str, ...] = option(("learned",), "several rules", choices=("learned", "entropy"))
    budgets: tuple[float, ...] = option((0.1, 0.5), "several budgets", share=True)
    epochs: int = option(3, "how often", minimum=1)
    learning_rate: float = option(1e-3, "step", minimum=0.0, maximum=1.0)
    limit: int | None = option(None, "rows")
    resume: bool = option(True, "continue")
    names: tuple[str, ...] = field(default_factory=lambda: ("a", "b"), metadata={"help": "names"})

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Needy:
    output: str = option(REQUIRED, "the folder to write", metavar="DIR")


def read(*argv: str) -> Example:
    return parse(Example, argv, prog="wheels example")


def test_no_arguments_give_the_defaults():
    assert read() == Example()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["hallo"], "text", "hallo"),
        (["--epochs", "3", "hallo"], "text", "hallo"),
        (["hallo", "--epochs", "3"], "text", "hallo"),
        (["--", "--hallo"], "text", "--hallo"),
        (["- ein Strich"], "text", "- ein Strich"),
        ([""], "text", ""),
        (["--teacher-budget", "0"], "teacher_budget", 0.0),
        (["--teacher-budget=1"], "teacher_budget", 1.0),
        (["--rule=entropy"], "rule", "entropy"),
        (["--rule", "entropy", "--rule", "margin"], "rule", "margin"),
        (["--rules", "entropy, learned"], "rules", ("entropy", "learned")),
        (["--budgets", "0,0.05,1"], "budgets", (0.0, 0.05, 1.0)),
        (["--budgets", "0.3"], "budgets", (0.3,)),
        (["--budgets="], "budgets", ()),
        (["--epochs", "7"], "epochs", 7),
        (["--learning-rate", "1e-4"], "learning_rate", 1e-4),
        (["--learning-rate", "0"], "learning_rate", 0.0),
        (["--learning-rate", "1"], "learning_rate", 1.0),
        (["--limit", "5"], "limit", 5),
        (["--limit", "none"], "limit", None),
        (["--limit", "-5"], "limit", -5),
        (["--no-resume"], "resume", False),
        (["--no-resume", "--resume"], "resume", True),
        (["--names", "x"], "names", ("x",)),
    ],
)
def test_a_flag_sets_its_field_and_no_other(argv, name, value):
    assert read(*argv) == dataclasses.replace(Example(), **{name: value})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--teacher-budget", "20"], r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2\?$"),
        (["--teacher-budget", "-0.1"], r"teacher_budget must be in \[0, 1\], got -0.1$"),
        (["--teacher-budget", "-1e-3"], r"teacher_budget must be in \[0, 1\], got -1e-3$"),
        (["--teacher-budget", "-inf"], r"teacher_budget must be in \[0, 1\], got -inf$"),
        (["--teacher-budget", "nan"], r"teacher_budget must be in \[0, 1\], got nan$"),
        (["--teacher-budget", "a"], r"teacher_budget must be a number in \[0, 1\], got 'a'$"),
        (["--budgets", "0.1,50"], r"budgets must be in \[0, 1\], got 50; did you mean 0.5\?$"),
        (["--tacher-budget", "0.2"], r"unknown flag '--tacher-budget'; did you mean '--teacher-budget'\?$"),
        (["--tacher-budget=0.2"], r"unknown flag '--tacher-budget'; did you mean '--teacher-budget'\?$"),
        (["--teacher_budget", "0.2"], r"unknown flag '--teacher_budget'; did you mean '--teacher-budget'\?$"),
        (["--no-resum"], r"unknown flag '--no-resum'; did you mean '--no-resume'\?$"),
        (
            ["--rule", "entopy"],
            r"rule must be one of learned, entropy, margin, got 'entopy'; did you mean 'entropy'\?$",
        ),
        (["--rules", "learned,margin"], "rules must be one of learned, entropy, got 'margin'"),
        (["--epochs", "1.5"], "epochs must be a whole number, got '1.5'$"),
        (["--epochs", "0"], "epochs must be at least 1, got 0$"),
        (["--learning-rate", "2"], "learning_rate must be at most 1.0, got 2.0$"),
        (["--learning-rate", "nan"], "learning_rate must be a number, got nan$"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--epochs", "--rule", "margin"], "--epochs: expected one argument"),
        (["ein", "zwei"], "no use for 'zwei'; put text that has spaces in quotes"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(argv, message):
    with pytest.raises(WheelsError, match=message) as caught:
        read(*argv)
    assert "\n" not in str(caught.value)


def test_a_required_value_that_is_missing_is_asked_for_by_its_flag():
    assert parse(Needy, ["--output", "x"], prog="wheels needy") == Needy("x")
    with pytest.raises(WheelsError, match=r"^--output DIR is missing: the folder to write$"):
        parse(Needy, [], prog="wheels needy")


def test_a_file_is_read_first_and_flags_win_over_it(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "# a comment\nteacher_budget: 0.3\nbudgets: [0, 0.25]\nlearning_rate: 1e-4\n"
        "resume: false\nlimit: null\nrules: entropy\n"
    )
    expected = Example(
        teacher_budget=0.3, budgets=(0.0, 0.25), learning_rate=1e-4, resume=False, rules=("entropy",), epochs=9
    )
    assert read("--config", str(file), "--epochs", "9") == expected
    assert read(f"--config={file}", "--epochs=9") == expected
    assert read("--config", str(file), "--teacher-budget", "0.4").teacher_budget == 0.4
    file.write_text("")
    assert read("--config", str(file)) == Example()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: 2\nlerning_rate: 1\n", r"run.yaml:2: unknown key 'lerning_rate'; did you mean 'learning_rate'\?$"),
        (
            b"epochs: 2\n\nteacher_budget: 20\n",
            r"run.yaml:3: teacher_budget must be in \[0, 1\], got 20; did you mean 0.2",
        ),
        (b"epochs: two\n", "run.yaml:1: epochs must be a whole number, got 'two'$"),
        (b"epochs: 2.5\n", "run.yaml:1: epochs must be a whole number, got 2.5$"),
        (b"epochs: true\n", "run.yaml:1: epochs must be a whole number, got True$"),
        (b"epochs:\n", "run.yaml:1: epochs must be a whole number, got None$"),
        (b"resume: 1\n", "run.yaml:1: resume must be true or false, got 1$"),
        (b"rule: {a: 1}\n", "run.yaml:1: rule must be text, got {'a': 1}$"),
        (b"epochs: 2\nrule: x\nepochs: 3\n", "run.yaml:3: 'epochs' is given twice$"),
        (b"- epochs\n", "run.yaml:1: must hold lines of `key: value`, got list$"),
        (b"epochs: 2\nrule: [\n", "run.yaml:3: not YAML"),
        (b"rule: \xff\n", "run.yaml: not UTF-8: invalid start byte at byte 6$"),
        (b"text: a\x00\n", "run.yaml: not YAML"),
        (b"1: 2\n", "run.yaml:1: unknown key 1"),
        (b'text: "a\\0"\n', "text must have no NUL character"),
        (b"text: 2026-02-30\n", "run.yaml: not YAML that can be read: day is out of range for month"),
        (b"epochs: " + b"9" * 5000 + b"\n", "run.yaml: not YAML that can be read: Exceeds the limit"),
        (b"text: " + b"[" * 5000, "run.yaml:1: a configuration has no 21 levels$"),
        (b"text: &a [*a]\n", "run.yaml: its aliases are nested in themselves; write it out$"),
        (b"text: " + b"x" * (1 << 19), "run.yaml: larger than 256 KiB; a configuration is a few lines$"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(WheelsError, match=message):
        read("--config", str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    "link", ["[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}"]
)
def test_aliases_that_fill_the_memory_are_counted_before_they_are_unfolded(tmp_path, link):
    lines = ["a0: &a0 {x: 1, y: 2}"] + [f"a{n}: &a{n} {link.format(f'*a{n - 1}')}" for n in range(1, 12)]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    with pytest.raises(WheelsError, match=r"run.yaml: its aliases unfold to more than 262,144 values; write it out$"):
        read("--config", str(tmp_path / "run.yaml"))


def test_an_alias_is_read_as_what_it_stands_for(tmp_path):
    (tmp_path / "run.yaml").write_text("budgets: &some [0.1, 0.2]\nnames: *some\n")
    assert read("--config", str(tmp_path / "run.yaml")) == Example(budgets=(0.1, 0.2), names=("0.1", "0.2"))


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfepochs: 2\n")
    assert read("--config", str(tmp_path / "run.yaml")) == Example(epochs=2)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WheelsError, match=r"cannot read .*none.yaml: No such file"):
        read("--config", str(tmp_path / "none.yaml"))


def test_help_shows_meaning_choices_and_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(Example, ["--help"], prog="wheels example", description="an example")
    shown = " ".join(capsys.readouterr().out.split())
    assert "usage: wheels example" in shown
    assert "--teacher-budget X the share of 20% and so on; default 0.2" in shown
    assert "--rule learned|entropy|margin the rule; default learned" in shown
    assert "--rules TEXT,... several rules; one of learned, entropy; default learned" in shown
    assert "--limit N rows --[no-]resume" in shown
    assert "TEXT what to say" in shown


def test_build_takes_values_and_refuses_unknown_names():
    assert build(Example, {"epochs": 4, "budgets": [0, 1]}) == Example(epochs=4, budgets=(0.0, 1.0))
    with pytest.raises(WheelsError, match="unknown key 'epoch'; did you mean 'epochs'"):
        build(Example, {"epoch": 4})


def test_to_dict_and_build_are_inverse():
    config = Example(text="x", budgets=(0.3,), limit=7)
    assert to_dict(config)["budgets"] == [0.3]
    assert build(Example, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({}, "wheels example"),
        ({"text": "--two words", "epochs": 7}, "wheels example --epochs 7 -- '--two words'"),
        ({"budgets": (0.0, 0.1 + 0.2, 1.0), "resume": False},
         "wheels example --budgets 0,0.30000000000000004,1 --no-resume"),
        ({"names": (), "limit": -5, "rules": ("entropy", "learned")},
         "wheels example --rules entropy,learned --limit=-5 --names ''"),
    ],
)  # fmt: skip
def test_the_command_that_gives_a_configuration(values, command):
    config = Example(**values)
    assert as_command("wheels example", config) == command
    assert read(*shlex.split(command)[2:]) == config


def test_values_from_python_are_held_to_the_same_limits():
    with pytest.raises(WheelsError, match=r"teacher_budget must be in \[0, 1\], got 20"):
        Example(teacher_budget=20)
    with pytest.raises(WheelsError, match="learning_rate must be a number, got nan"):
        Example(learning_rate=math.nan)
    with pytest.raises(WheelsError, match="epochs must be a whole number, got 'a'"):
        Example(epochs="a")  # type: ignore[arg-type]
    with pytest.raises(WheelsError, match=r"epochs must be a whole number, got 2\.0"):
        Example(epochs=2.0)  # type: ignore[arg-type]
    with pytest.raises(WheelsError, match="learning_rate must be a number, got True"):
        Example(learning_rate=True)
    with pytest.raises(WheelsError, match=r"teacher_budget must be a number in \[0, 1\], got True"):
        Example(teacher_budget=True)


def test_limits_hold_for_a_class_that_does_not_check_itself():
    @dataclass(frozen=True)
    class Unchecked:
        epochs: int = option(1, "how often", minimum=1)

    with pytest.raises(WheelsError, match="epochs must be at least 1, got 0"):
        parse(Unchecked, ["--epochs", "0"], prog="wheels unchecked")


def test_a_type_without_a_form_on_the_command_line_is_a_mistake_of_the_class():
    @dataclass(frozen=True)
    class Wrong:
        table: dict[str, int] = field(default_factory=dict)

    with pytest.raises(TypeError, match="'table': a configuration cannot hold"):
        fields_of(Wrong)


def test_resolved_configuration_tells_what_made_a_result(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Seeded:
        seed: int = 5
        budgets: tuple[float, ...] = (0.1,)

    monkeypatch.setattr(sys, "argv", ["wheels", "train", "--seed", "5"])
    path = write_resolved(Seeded(), tmp_path / "new", {"data_digest": "abc"})
    resolved = json.loads(Path(path).read_text())
    assert path == tmp_path / "new" / "resolved.json"
    assert resolved["config"] == {"seed": 5, "budgets": [0.1]}
    assert resolved["seed"] == 5
    assert resolved["data_digest"] == "abc"
    assert resolved["argv"] == ["wheels", "train", "--seed", "5"]
    assert resolved["versions"]["wheels"] == wheels.__version__
    assert {"torch", "transformers"} <= set(resolved["versions"])
    assert {"python", "platform", "threads"} <= set(resolved)


def test_what_a_run_left_can_be_given_back(tmp_path):
    from wheels.runs import claim

    config = Example(text="a: b\n", limit=-5, budgets=(0.1, 1e-5), rules=("entropy",), resume=False, names=())
    write_resolved(config, tmp_path, {"more": 1})
    with claim(tmp_path / "run", "example", config, {"data_digest": "ab"}):
        pass
    for name in ("resolved.json", "run/run.json"):
        assert read("--config", str(tmp_path / name)) == config
        assert read("--config", str(tmp_path / name), "--limit", "3") == dataclasses.replace(config, limit=3)
    (tmp_path / "other.json").write_text('{"config": {"nmaes": 3}, "seed": 1}')
    with pytest.raises(WheelsError, match=r"other.json:1: unknown key 'nmaes'; did you mean 'names'"):
        read("--config", str(tmp_path / "other.json"))
