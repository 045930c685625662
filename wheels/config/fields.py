"""The fields of a configuration: how text and YAML values become their types, and what they may hold.

A configuration is a flat frozen dataclass. The metadata of a field may carry:

    help        what the field means, for `--help`
    group       the title that it stands under in `--help`; without one it is among the common ones, shown first
    choices     the values allowed (of each element, for a tuple)
    check       refuses what is not allowed, as `check(name, value)`; the choices are then not all there is
    minimum     the smallest value allowed (default: -MOST)
    maximum     the largest value allowed (default: MOST)
    share       True for a number in [0, 1], such as a teacher budget
    once        True for a tuple of at least one value, each of which is kept once
    rising      True for one whose values are put in order too
    empty       True for one of them that may be empty
    positional  True for a value that is given without its flag
    metavar     the placeholder for the value in `--help`
    reads       for a path: what is read there, `wheels.config.paths.SETTINGS` or `PLACE`
    writes      for a path: what is written there, `wheels.config.paths.FILE` or `RUN`
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wheels.config.paths import check_paths
from wheels.errors import (
    MOST_NUMBER,
    MOST_WHOLE,
    WheelsError,
    check_budget,
    check_choice,
    check_number,
    check_whole,
    did_you_mean,
)

MOST = {int: MOST_WHOLE, float: MOST_NUMBER}
"""The largest size of a number whose field says nothing else: what every library below takes, as a seed too."""
MOST_THREADS = 1024
"""More than any machine has processors, and few enough to be started on any."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a configuration class, with its type resolved."""

    name: str
    """The name in the class and in YAML; the flag is the same with dashes."""
    kind: type
    """`str`, `int`, `float` or `bool`: of the value, or of each element of a tuple."""
    optional: bool
    many: bool
    """Whether the value is a tuple, written with commas between its elements."""
    default: Any
    """The default, or `dataclasses.MISSING` where the user must give a value."""
    metadata: Mapping[str, Any]
    """See the top of this file."""

    @property
    def flag(self) -> str:
        """The flag of the command line, such as `--teacher-budget`."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether the user must give a value."""
        return self.default is dataclasses.MISSING

    @property
    def positional(self) -> bool:
        """Whether the value is given without its flag."""
        return bool(self.metadata.get("positional"))

    @property
    def group(self) -> str:
        """The title of its group in `--help`; empty for a common option."""
        return str(self.metadata.get("group", ""))


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Return a dataclass field with its line of help and the rest of its metadata (see the top of this file)."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


Option = Callable[..., Any]
"""`option`, or one that `option_group` returns."""


def option_group(title: str) -> Option:
    """Return an `option` whose fields are listed under `title` in `--help`."""
    return functools.partial(option, group=title)


MACHINE = "machine"
"""The title of what says where a command runs, and how it computes there."""
machine_option = option_group(MACHINE)


def threads_option() -> Any:
    """Return the field of a command's CPU threads."""
    return machine_option(
        None, "CPU threads (default: one for models up to 10M weights, else all)", minimum=1, maximum=MOST_THREADS
    )


BACKENDS = ("auto", "torch", "onnx", "llama.cpp")
"""What runs forward passes: see `wheels.decoding.models.backends`."""


def backend_option() -> Any:
    """Return the field of what runs a command's forward passes."""
    return machine_option(
        "auto",
        "what runs forward passes; auto: torch or ONNX Runtime, as measured for each model; llama.cpp: the models of "
        "GGUF files, whose weights stay there, and others by auto",
        choices=BACKENDS,
    )


WEIGHTS = ("float32", "int8", "bfloat16", "auto")
"""What the fast path may make of the weights of a float32 model on a CPU; `auto`: the fastest of the others."""


def weights_option(role: str) -> Any:
    """Return the field of the number format that the weights of the student or the teacher are laid out in."""
    return machine_option(
        "float32",
        f"format of the {role}'s weights on a CPU: int8 and bfloat16 are faster, and change some texts; auto: what is "
        "fastest here",
        choices=WEIGHTS,
    )


def weights_of(config: Any) -> dict[str, Any]:
    """Return the values of both fields of `weights_option`, by name; a pair has them too."""
    return {"student_weights": config.student_weights, "teacher_weights": config.teacher_weights}


def teacher_device_option() -> Any:
    """Return the field of where the teacher is put, where that is not the student's device."""
    return machine_option(
        None,
        "device of the teacher alone, such as cuda:1; auto: in parts on all devices, then in main memory, then on disk "
        "(default: --device)",
    )


QUANTIZATIONS = ("int8", "int4")
"""What a teacher's weights may be rounded to when it is loaded."""


def quantization_option() -> Any:
    """Return the field of what the teacher's weights are rounded to when it is loaded."""
    return machine_option(
        None,
        "round the teacher's weights when it is loaded, on any device: int8 by torchao, int4 by bitsandbytes",
        choices=QUANTIZATIONS,
    )


DTYPES = ("float32", "bfloat16", "float16")
"""The number formats that models can be asked to run in."""
STORED_DTYPES = ("auto", *DTYPES)
"""The number formats that models run in; `auto`: what each is stored in."""


def dtype_option(role: str | None = None) -> Any:
    """Return the field of the number format of both models, or of the student or the teacher alone."""
    if role is not None:
        return machine_option(None, f"number format of the {role} alone (default: --dtype)", choices=STORED_DTYPES)
    return machine_option(
        "auto",
        "number format of both models; auto: that of the thresholds, else what each is stored in (float16 is float32 "
        "on a CPU)",
        choices=STORED_DTYPES,
    )


OF_LOADING = (
    *("device", "dtype", "student_dtype", "teacher_dtype", "student_weights", "teacher_weights"),
    *("teacher_device", "teacher_quantization"),
)
"""Settings by which the models of a pair are loaded."""


def loading_of(config: Any) -> dict[str, Any]:
    """Return what a configuration says of how its pair is loaded, as `Pair.load` takes it."""
    return {name: getattr(config, name) for name in OF_LOADING if hasattr(config, name)}


OF_FOLDERS = {"teacher_dtype": None, "teacher_device": None, "teacher_quantization": None, "teacher_weights": "float32"}
"""Settings by which a teacher is loaded, and what stands for none."""


def check_elsewhere(settings: Mapping[str, Any]) -> None:
    """Refuse settings by which a teacher is loaded, for one at an address."""
    for name, usual in OF_FOLDERS.items():
        if (given := settings.get(name, usual)) != usual:
            raise WheelsError(
                f"{name} {given!r} is for a teacher in a folder, and this one is at an address; leave it out"
            )


ATTENTION = ("sdpa", "eager")
"""Implementations of attention that come with transformers and read a mask for each row."""


def attention_option() -> Any:
    """Return the field of how both models' attention is computed."""
    return machine_option(
        None, "how attention is computed (default: as each family does; float32 is exact in both)", choices=ATTENTION
    )


def trust_option() -> Any:
    """Return the field that lets models run code of their own."""
    return machine_option(
        False, "run Python code that comes with the models; it can do whatever you can, so read it first"
    )


def tokens_option() -> Any:
    """Return the field that bounds what is decoded at once by its tokens."""
    return machine_option(
        None, "tokens of all texts decoded at once, sources and longest outputs (default: what memory holds)", minimum=1
    )


REQUIRED = dataclasses.MISSING
"""The default of an `option` that the user must give."""


def fields_of(config_class: type) -> list[Field]:
    """Return the fields of a configuration class, in their order.

    Raises:
        TypeError: for a type that has no form on the command line: a mistake in the class, not the user's.
    """
    hints = typing.get_type_hints(config_class)
    return [_field(field, hints[field.name]) for field in dataclasses.fields(config_class) if field.init]


def grouped(fields: Sequence[Field]) -> dict[str, list[Field]]:
    """Return the fields by group title: the common ones first, under an empty title, the machine last."""
    groups: dict[str, list[Field]] = {"": []}
    for field in fields:
        groups.setdefault(field.group, []).append(field)
    machine = groups.pop(MACHINE, [])
    return {title: members for title, members in (*groups.items(), (MACHINE, machine)) if members}


def _field(field: dataclasses.Field[Any], hint: Any) -> Field:
    """Resolve the type `hint` of `field`: `X`, `X | None`, `tuple[X, ...]` or `tuple[X, ...] | None`."""
    arguments = typing.get_args(hint)
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in arguments
    if optional:
        hint = next(argument for argument in arguments if argument is not type(None))
    many = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if many else hint
    if kind not in (str, int, float, bool) or (many and kind is bool):
        raise TypeError(f"field {field.name!r}: a configuration cannot hold {hint!r}")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Field(field.name, kind, optional, many, default, field.metadata)


def convert(field: Field, value: Any) -> Any:
    """Return `value`, a string of the command line or a value of YAML, as the type of `field`.

    Raises:
        WheelsError: naming the field, the value, and what is allowed.
    """
    if field.optional and (value is None or (field.kind is not str and value in ("none", "None", "null"))):
        return None
    if not field.many:
        return _convert_one(field, value)
    elements = _split(value) if isinstance(value, str) else value
    if not isinstance(elements, list | tuple):
        elements = [elements]
    return tuple(_convert_one(field, element) for element in elements)


def _split(text: str) -> list[str]:
    """Return the elements of a comma-separated list; empty text is the empty list."""
    return [element.strip() for element in text.split(",")] if text.strip() else []


def _convert_one(field: Field, value: Any) -> Any:
    """Return `value` as the type of `field`, or of one of its elements."""
    if field.metadata.get("share"):
        return check_budget(value, field.name)
    word = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[field.kind]
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    try:
        if field.kind is bool and isinstance(value, bool):
            return value
        if field.kind is int and plain and not isinstance(value, float):
            return int(value)
        if field.kind is float and plain:
            return float(value) + 0.0  # -0.0 becomes 0.0, which prints and compares as one value
        if field.kind is str and plain:
            return str(value)
    except (ValueError, OverflowError):
        pass
    raise WheelsError(f"{field.name} must be {word}, got {value!r}")


def check_fields(config: Any) -> None:
    """Check every field of `config` by its metadata, in `__post_init__`.

    Raises:
        WheelsError: for the first field that holds something else; for an output that is an input or another output.
    """
    fields = fields_of(type(config))
    for field in fields:
        value = getattr(config, field.name)
        if value is None and field.optional:
            continue
        for element in value if field.many else (value,):
            _check_one(field, element)
        if field.many:
            _settle(config, field, value)
    check_paths(fields, config)


def _settle(config: Any, field: Field, value: tuple[Any, ...]) -> None:
    """Refuse a tuple without a value, drop what stands twice, and put in order, as the metadata say."""
    rising = field.metadata.get("rising")
    if rising or field.metadata.get("once"):
        if not value and not field.metadata.get("empty"):
            raise WheelsError(f"{field.name} must hold at least one value, got none")
        once = dict.fromkeys(map(field.kind, value))
        object.__setattr__(config, field.name, tuple(sorted(once) if rising else once))


def _check_one(field: Field, value: Any) -> None:
    """Check one value of `field` against its limits."""
    if field.kind is str:
        _check_text(field.name, value)
    if "check" in field.metadata:
        field.metadata["check"](field.name, value)
    elif "choices" in field.metadata:
        check_choice(field.name, value, field.metadata["choices"])
    if field.metadata.get("share"):
        check_budget(value, field.name)
    if field.kind in (int, float):
        check, most = check_whole if field.kind is int else check_number, MOST[field.kind]
        check(field.name, value, field.metadata.get("minimum", -most), field.metadata.get("maximum", most))


def _check_text(name: str, text: Any) -> None:
    """Refuse text that cannot be written to a file or passed to the system."""
    if not isinstance(text, str):
        raise WheelsError(f"{name} must be text, got {text!r}")
    if "\0" in text:
        raise WheelsError(f"{name} must have no NUL character, got {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WheelsError(f"{name} is not UTF-8 at character {error.start + 1}; give it as UTF-8") from None


def check_known(names: Sequence[str], known: Sequence[str], word: str) -> None:
    """Refuse the first of `names` that is not in `known`, suggesting the nearest.

    Raises:
        WheelsError: such as `unknown key 'lerning_rate'; did you mean 'learning_rate'?`.
    """
    for name in names:
        if name not in known:
            raise WheelsError(f"unknown {word} {name!r}{did_you_mean(str(name), known) or _all_of(known)}")


def _all_of(known: Sequence[str]) -> str:
    """List everything known, for a name that is near none of it."""
    return f"; known: {', '.join(known)}" if known else "; none is known"
