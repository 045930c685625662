"""The commands of `wheels`, in the order in which a newcomer needs them, and the text of `wheels --help`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import wheels


@dataclass(frozen=True)
class Command:
    """One command: its configuration and its function, both imported only when needed."""

    config: str
    """`module:Class` of the configuration, in a module that does not import torch."""
    run: str
    """`module:function` that takes the configuration and prints its own output."""
    help: str
    continues: bool = True
    """Whether running the same command again resumes an interrupted run."""
    section: str = "measure"
    """The title that it stands under in `wheels --help`."""


COMMANDS = {
    "generate": Command(
        "wheels.decoding.commands.generate_config:GenerateConfig",
        "wheels.decoding.commands.run:run",
        "write text with the student, calling the teacher within a budget",
        section="start here",
    ),
    "merge": Command(
        "wheels.decoding.commands.merge_config:MergeConfig",
        "wheels.decoding.commands.merge:run",
        "join what the shards of generate wrote, in the order of the rows",
        section="start here",
    ),
    "serve": Command(
        "wheels.decoding.serve.config:ServeConfig",
        "wheels.decoding.serve.run:run",
        "answer OpenAI clients: a server that batches their requests",
        continues=False,
        section="start here",
    ),
    "demo": Command(
        "wheels.benchmarks.demo.config:DemoConfig",
        "wheels.benchmarks.demo.run:run",
        "run everything on the embedded pair: distil, train, measure, report",
        section="start here",
    ),
    "pretrain": Command(
        "wheels.distillation.config:PretrainConfig",
        "wheels.distillation.run:run",
        "train a student by distillation, or a teacher from scratch",
        section="your own pair",
    ),
    "train": Command(
        "wheels.agents.config:TrainConfig",
        "wheels.agents.run:run",
        "train the student to call the teacher where it is worth its price",
        section="your own pair",
    ),
    "calibrate": Command(
        "wheels.decoding.commands.calibrate_config:CalibrateConfig",
        "wheels.decoding.commands.calibrate:run",
        "find each rule's threshold for each budget on validation data",
        section="your own pair",
    ),
    "advise": Command(
        "wheels.benchmarks.frontier.config:AdviseConfig",
        "wheels.benchmarks.frontier.advise:run",
        "say which student, and how many calls, keep the teacher's quality at the least cost",
        section="your own pair",
    ),
    "push": Command(
        "wheels.sharing.config:PushConfig",
        "wheels.sharing.push:run",
        "share a trained model on the Hub, with a card made from its results",
        continues=False,
        section="your own pair",
    ),
    "bench curve": Command(
        "wheels.benchmarks.curve.config:CurveConfig",
        "wheels.benchmarks.curve.run:run",
        "measure quality against teacher use, and draw the curve",
    ),
    "bench ceiling": Command(
        "wheels.benchmarks.ceiling.config:CeilingConfig",
        "wheels.benchmarks.ceiling.run:run",
        "find what perfect foresight of every call reaches, and how near each rule comes",
    ),
    "bench passes": Command(
        "wheels.benchmarks.passes.config:PassesConfig",
        "wheels.benchmarks.passes.run:run",
        "measure quality against teacher passes, deferral beside every way of verifying",
    ),
    "bench speed": Command(
        "wheels.benchmarks.speed.config:SpeedConfig",
        "wheels.benchmarks.speed.run:run",
        "time every way of decoding beside transformers' own, and against what could be at best",
    ),
    "bench study": Command(
        "wheels.benchmarks.study.config:StudyConfig",
        "wheels.benchmarks.study.run:run",
        "run a recipe on a task: teacher, students by every objective, policy, curve, passes",
    ),
    "bench frontier": Command(
        "wheels.benchmarks.frontier.config:FrontierConfig",
        "wheels.benchmarks.frontier.run:run",
        "measure quality against cost: students of several sizes alone, and what calls add to them",
    ),
    "bench distillation": Command(
        "wheels.benchmarks.distillation.config:DistillationConfig",
        "wheels.benchmarks.distillation.run:run",
        "compare students by labels, temperature and size, and measure what caching their teacher saves",
    ),
    "bench annotation": Command(
        "wheels.benchmarks.annotation.config:AnnotationConfig",
        "wheels.benchmarks.annotation.run:run",
        "measure what a budget of annotations buys, by the way it is spent, with teachers that err",
    ),
    "bench rationales": Command(
        "wheels.benchmarks.rationales.config:BenchRationalesConfig",
        "wheels.benchmarks.rationales.run:run",
        "compare students that also learn a teacher's rationales with students that do not",
    ),
    "annotate": Command(
        "wheels.annotation.config:AnnotateConfig",
        "wheels.annotation.run:run",
        "have a teacher label a file within a budget, with a teaching assistant in the loop",
        section="make training data",
    ),
    "rationales": Command(
        "wheels.rationales.config:RationalesConfig",
        "wheels.rationales.run:run",
        "mark the words of each source that a teacher's gradients point to",
        section="make training data",
    ),
    "models": Command(
        "wheels.decoding.compatibility.config:ModelsConfig",
        "wheels.decoding.compatibility.run:run",
        "check which families and models are decoded exactly, and say why others are not",
        continues=False,
        section="get help",
    ),
    "env": Command(
        "wheels.cli.env:EnvConfig",
        "wheels.cli.env:run",
        "print versions, processor, devices and memory: what a bug report needs",
        continues=False,
        section="get help",
    ),
}
"""Every command, in the order in which a newcomer needs them."""

EXAMPLES = """examples:
  wheels generate --teacher-budget 0.2 "Vergiss nicht, das Licht auszumachen."
  wheels demo

`wheels COMMAND --help` lists the flags of one command, `wheels bench --list` what can be measured.
`wheels --print-completion bash` (or zsh, fish) prints what completes them, `wheels --version` the version.
"""
USAGE = "usage: wheels COMMAND [--flag value ...] [--config FILE.yaml]\n"


def usage() -> str:
    """Return the text of `wheels --help`."""
    width = max(map(len, COMMANDS)) + 2
    parts = [USAGE, (wheels.__doc__ or "").strip() + "\n"]
    for title in dict.fromkeys(command.section for command in COMMANDS.values()):
        members = {name: command for name, command in COMMANDS.items() if command.section == title}
        parts.append(f"{title}:\n{_lines(members, width)}")
    return "\n".join([*parts, EXAMPLES])


def usage_of(group: str) -> str:
    """Return the text of the help of all commands of two words that begin with `group`, such as `bench`."""
    members = {name: command for name, command in COMMANDS.items() if name.startswith(group + " ")}
    hint = "`wheels COMMAND --help` lists the flags of one command"
    hint += ", `wheels bench --list` recipes, rules and metrics too.\n" if group == "bench" else ".\n"
    return "\n".join([USAGE, f"commands:\n{_lines(members, max(map(len, members)) + 2)}", hint])


def _lines(commands: Mapping[str, Command], width: int) -> str:
    """Return a line for each command."""
    return "".join(f"  {name:<{width}}{command.help}\n" for name, command in commands.items())
