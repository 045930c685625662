"""No output is an input or another output, whatever the names that lead there."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module

import pytest

from wheels.cli.main import COMMANDS, main
from wheels.config.fields import check_fields, fields_of, option
from wheels.config.parsing import build, parse
from wheels.config.paths import FILE, PLACE, RUN, SETTINGS, settings_digests
from wheels.errors import WheelsError


@dataclass(frozen=True)
class Config:
    input: str | None = option(None, "", reads=PLACE)
    models: tuple[str, ...] = option((), "", reads=PLACE)
    options: str | None = option(None, "", reads=SETTINGS)
    output: str | None = option(None, "", writes=FILE)
    page: str | None = option(None, "", writes=FILE)
    folder: str | None = option(None, "", writes=RUN)

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").write_text("mine")
    (tmp_path / "model" / "deep").mkdir(parents=True)
    for name in ("config.json", "deep/head", "page.html"):
        (tmp_path / "model" / name).write_text("mine")
    (tmp_path / "link").symlink_to("rows")
    os.link(tmp_path / "rows", tmp_path / "twin")
    return tmp_path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input": "rows", "output": "rows"}, "output is the same place as input: 'rows'; give another --output"),
        ({"input": "rows", "output": "./model/../rows"}, "output is the same place as input"),
        ({"input": "link", "output": "rows"}, "output is the same place as input"),
        ({"input": "rows", "output": "link"}, "output is the same place as input"),
        ({"input": "rows", "page": "twin"}, "page is the same place as input"),
        ({"models": ("other", "model"), "folder": "model/"}, "folder is the same place as models"),
        ({"options": "rows", "folder": "rows"}, "folder is the same place as options"),
        ({"output": "new", "page": "./new"}, "page is the same place as output: './new'; give another --page"),
        ({"page": "new", "folder": "new"}, "folder is the same place as page"),
        ({"models": ("model",), "output": "model/config.json"}, "output is a file of models 'model'"),
        ({"models": ("model",), "page": "model/deep/head"}, "page is a file of models 'model'"),
    ],
)
def test_an_output_that_is_an_input_or_another_output_is_refused(here, values, message):
    with pytest.raises(WheelsError, match=message):
        build(Config, values)
    assert (here / "rows").read_text() == "mine"


@pytest.mark.parametrize(
    "values",
    [
        {"input": "rows", "output": "new"},
        {"input": "name", "output": "name"},  # a hub id, or what is not there: nothing can be harmed
        {"output": "/dev/null", "page": "/dev/null"},
        {"input": "/dev/stdin", "output": "/dev/stdout"},
        {"models": ("model",), "output": "model/new", "folder": "model/run"},
        {"models": ("model",), "page": "model/page.html"},
    ],
)
def test_other_outputs_are_not(here, values):
    build(Config, values)


def test_the_file_of_config_is_an_input(here):
    (here / "c.yaml").write_text("output: c.yaml\n")
    with pytest.raises(WheelsError, match="output is the same place as config"):
        parse(Config, ["--config", "c.yaml"], prog="wheels x")


def test_what_the_shell_reads_from_is_an_input(here):
    code = "import sys; from wheels.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with (here / "rows").open() as rows:
        done = subprocess.run(
            [sys.executable, "-c", code, "generate", "--output", "rows"], stdin=rows, capture_output=True, text=True,
        )  # fmt: skip
    assert done.stderr == "error: output is the same place as standard input: 'rows'; give another --output\n"
    assert (here / "rows").read_text() == "mine"


def test_settings_are_known_by_their_content(here):
    def digests(**values):
        return settings_digests(fields_of(Config), Config(**values))

    before = digests(options="rows", input="twin")
    assert before == digests(options="twin") and list(before) == ["options_digest"]
    (here / "rows").write_text("yours")
    assert digests(options="rows") != before
    assert digests() == {}
    with pytest.raises(WheelsError, match="cannot read none: No such file"):
        digests(options="none")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_of_every_command_says_whether_it_is_read_or_written(command):
    module, name = COMMANDS[command].config.split(":")
    config_class = getattr(import_module(module), name)
    names = {"input", "pool", "data", "model", "student", "students", "teacher", "teachers", "assistant", "assistants",
             "tokenizer", "calibration_data", "tune_data", "also",
             "recipe", "output", "html", "work", "cache"}  # fmt: skip
    for field in fields_of(config_class):
        named = field.name in names or field.metadata.get("metavar") in (
            "DIR",
            "DIR,...",
            "FILE",
            "PATH",
            "DATA",
            "MODEL,...",
        )
        written = "writes" in field.metadata
        assert named == ("reads" in field.metadata or written), field.name
        assert written == (field.name in ("output", "html", "work", "cache", "ledger")), field.name


@pytest.mark.parametrize("argv", [["generate", "--input"], ["rationales", "--teacher", "t", "--data"]])
def test_the_command_line_refuses_it(here, capsys, argv):
    assert main([*argv, "rows", "--output", "rows"]) == 2
    assert capsys.readouterr().err.startswith("error: output is the same place as ")
    assert (here / "rows").read_text() == "mine"
