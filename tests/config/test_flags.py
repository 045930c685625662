import argparse

import pytest

from wheels.cli import commands as cli_commands
from wheels.cli.main import _load
from wheels.config.fields import MACHINE, fields_of, grouped, option, option_group
from wheels.config.flags import COMMON, EVERYWHERE, config_parser, on_every_command
from wheels.errors import WheelsError

MOST_COMMON = 10
COMMANDS = {name: fields_of(_load(command.config)) for name, command in cli_commands.COMMANDS.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_common_options_are_few(name):
    common = grouped(COMMANDS[name])[""]
    assert 1 <= len(common) <= MOST_COMMON, [field.name for field in common]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_must_be_given_is_common(name):
    assert [field.name for field in COMMANDS[name] if field.required and field.group] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_group_is_worth_its_title(name):
    groups = grouped(COMMANDS[name])
    assert sum(map(len, groups.values())) == len(COMMANDS[name])
    assert [title for title, members in groups.items() if len(members) < 2 and title not in ("", MACHINE)] == []
    assert MACHINE not in groups or list(groups)[-1] == MACHINE
    of_machine = {
        "device", "dtype", "student_dtype", "teacher_dtype", "student_weights", "teacher_weights", "threads", "backend",
        "teacher_device", "attn_implementation", "trust_remote_code", "max_tokens_in_flight", "engine", "actors",
        "teacher_quantization",
    }  # fmt: skip
    assert {field.name for field in COMMANDS[name]} & of_machine == {
        field.name for field in groups.get(MACHINE, ()) if field.name != "batch_size"
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_teacher_that_is_loaded_can_be_elsewhere_and_rounded(name):
    names = {field.name for field in COMMANDS[name]}
    loads = {"teacher", "dtype"} <= names
    assert ({"teacher_device", "teacher_quantization"} & names) == (
        {"teacher_device", "teacher_quantization"} if loads else set()
    )


def test_the_commands_that_load_a_teacher():
    found = {name for name in COMMANDS if {"teacher", "dtype"} <= {field.name for field in COMMANDS[name]}}
    benches = {f"bench {name}" for name in ("curve", "ceiling", "passes", "speed", "frontier")}
    assert found == {"generate", "serve", "train", "pretrain", "calibrate", "advise"} | benches


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_each_option_means(name):
    assert [field.name for field in COMMANDS[name] if len(field.metadata.get("help", "")) < 5] == []


def titles(shown: str) -> list[str]:
    return [line.removesuffix(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_groups_in_order(name):
    shown = config_parser(COMMANDS[name], f"wheels {name}", "what it does").format_help()
    assert titles(shown) == [COMMON, *list(grouped(COMMANDS[name]))[1:], EVERYWHERE]
    for flag in on_every_command():
        assert flag in shown.split(f"{EVERYWHERE}:")[1]


def helped(monkeypatch, **fields) -> str:
    from dataclasses import make_dataclass

    monkeypatch.setenv("COLUMNS", "100")
    made = make_dataclass("Made", [(name, kind, value) for name, (kind, value) in fields.items()], frozen=True)
    return config_parser(fields_of(made), "wheels made", "what it does").format_help()


def test_the_text_of_help(monkeypatch):
    shown = helped(
        monkeypatch,
        device=(str, option_group(MACHINE)("cpu", "where")),
        place=(str, option_group("the rest")("wheels-retrain", "a place for what is not finished when it stops")),
        far=(bool, option_group("the rest")(False, "whether it is 20% away")),
        name=(str, option("x " * 60, "its name")),
    )
    assert (
        shown
        == """usage: wheels made [--flag value ...]

what it does

common options:
  --name TEXT                   its name; default x x x x x x x x x x x x x x x x x x x x x x x x x
                                x x x ...

the rest:
  --place TEXT                  a place for what is not finished when it stops; default
                                wheels-retrain
  --[no-]far                    whether it is 20% away

machine:
  --device TEXT                 where; default cpu

on every command:
  --config FILE                 a YAML file of `key: value` lines; flags win over it
  --quiet                       print results, warnings and errors only: no bars, no remarks
  --log-level debug|info|warning|error
                                debug adds tracebacks and what libraries log; default info
  --time-limit TIME             such as 90m or 3h30m: stop then, keep what is done, and exit with
                                143
  -h, --help                    show this message
"""
    )


def test_no_option_takes_the_name_of_a_flag_of_every_command(monkeypatch):
    with pytest.raises(AssertionError, match="--quiet is a flag of every command"):
        helped(monkeypatch, quiet=(str, option("", "silence")))


def test_an_error_of_argparse_is_ours():
    parser = config_parser([], "wheels made", "")
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(WheelsError, match=r"^wrong$"):
        parser.error("argument wrong")
