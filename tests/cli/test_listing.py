import pytest

from wheels.benchmarks.core.recipe import about, find_recipe, shipped_recipes
from wheels.cli import main as cli
from wheels.cli.commands import COMMANDS
from wheels.decoding.methods.rules import RULE_NAMES
from wheels.errors import WheelsError
from wheels.metrics import METRICS


def test_the_list_names_everything_with_a_line_each(capsys):
    assert cli.main(["bench", "--list"]) == 0
    sections = {}
    for part in capsys.readouterr().out.split("\n\n"):
        title, *lines = part.strip().splitlines()
        assert all(len(line.split()) > 2 for line in lines), title
        sections[title.split(" (")[0].rstrip(":")] = [line[2:].split("  ")[0] for line in lines]
    assert list(sections) == ["benchmarks", "recipes", "rules, by where they call the teacher", "metrics"]
    assert sections["benchmarks"] == [name for name in COMMANDS if name.startswith("bench ")]
    assert sections["recipes"] == [*shipped_recipes()]
    assert sorted(sections["rules, by where they call the teacher"]) == sorted(RULE_NAMES)
    assert sections["metrics"] == [*METRICS]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_says_what_it_is_for(name):
    command, meaning = about(shipped_recipes()[name])
    assert command in COMMANDS
    assert 10 < len(meaning) <= 120


def test_a_recipe_is_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tatoeba").mkdir()  # a folder is no recipe
    assert find_recipe("tatoeba").is_file()
    (tmp_path / "mine").touch()
    assert find_recipe("mine").resolve() == tmp_path / "mine"


@pytest.mark.parametrize("command", ["bench study", "bench distillation", "bench rationales"])
def test_an_unknown_recipe_is_answered_with_the_list(capsys, tmp_path, command):
    argv = [*command.split(), "--recipe", "tatoba", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert cli.main(argv) == 2
    shown = capsys.readouterr().err
    assert f"no recipe 'tatoba': neither a file, nor one of {', '.join(shipped_recipes())}" in shown
    assert shown.endswith("; did you mean 'tatoeba'?\n")


def test_a_path_that_is_not_there_stays_a_path():
    assert str(find_recipe("runs/mine.yaml")) == "runs/mine.yaml"
    with pytest.raises(WheelsError, match=r"no recipe 'mine\.yaml'"):
        find_recipe("mine.yaml")
