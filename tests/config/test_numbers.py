"""Every number of every command and of every section of a recipe, at the ends of what can be written."""

import dataclasses
import importlib
import math

import pytest

from wheels.cli.main import COMMANDS
from wheels.config.fields import MOST, Field, check_fields, fields_of
from wheels.config.parsing import build, parse
from wheels.errors import WheelsError


def classes() -> list[type]:
    """Return the configuration of each command, and those of recipes that stand beside it."""
    found = {}
    for module in sorted({command.config.split(":")[0] for command in COMMANDS.values()}):
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module:
                found[f"{value.__module__}.{value.__name__}"] = value
    return list(found.values())


EVERY = {
    f"{owner.__name__}.{field.name}": field
    for owner in classes()
    for field in fields_of(owner)
    if field.kind in (int, float)
}


def behaviour(field: Field) -> str:
    """Return all that the tests below see of a field: what several commands share is tried once."""
    told = {name: value for name, value in field.metadata.items() if name != "help"}
    return repr(dataclasses.replace(field, metadata=told))


NUMBERS = {name: EVERY[name] for name in {behaviour(field): name for name, field in EVERY.items()}.values()}
TEXTS = [
    *("0", "-0", "-0.0", "1", "-1", "0.5", "5e-324", "-5e-324", "1e-300", "1e-38"),
    *("1e300", "-1e300", "1e400", "-1e400"),
    *("2147483647", "2147483648", "-2147483649", "9223372036854775808", "nan", "-nan", "inf", "-inf", "Infinity"),
    *("9" * 400, "9" * 5000, "", " ", "1,2", "0x10", "1e", "--1", "one", "1\n", "\x1b[1m", "\udcff"),
]  # fmt: skip


def alone(field: Field) -> type:
    """Return a configuration of this one field."""
    kind = tuple[field.kind, ...] if field.many else field.kind
    made = dataclasses.field(default=field.default, metadata=field.metadata)
    return dataclasses.make_dataclass("Alone", [(field.name, kind, made)], frozen=True)


def test_every_number_is_found():
    assert len(EVERY) > 150 and {*map(behaviour, EVERY.values())} == {*map(behaviour, NUMBERS.values())}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_within_its_bounds_or_refused_in_one_line(name):
    field = NUMBERS[name]
    owner, most = alone(field), MOST[field.kind]
    for text in TEXTS:
        try:
            value = getattr(parse(owner, [f"{field.flag}={text}"], prog="wheels x"), field.name)
        except WheelsError as error:
            assert "\n" not in " ".join(str(error).split()) and str(error).startswith(field.name), text
            continue
        for number in value if field.many else (value,):
            assert type(number) is field.kind and math.isfinite(number) and abs(number) <= most, text
            assert math.copysign(1, number) == 1 or number < 0, "-0.0 is another text than 0.0 in names and signatures"
            assert field.metadata.get("minimum", -most) <= number <= field.metadata.get("maximum", most)


@pytest.mark.parametrize("name", NUMBERS)
def test_what_no_library_takes_is_refused_from_python_and_json_too(name):
    field, owner = NUMBERS[name], alone(NUMBERS[name])
    plain = dataclasses.make_dataclass("Plain", [(field.name, field.kind, dataclasses.field(metadata=field.metadata))])
    for value in (math.nan, math.inf, -math.inf, 2.0**63, 2**63, 10**400, True, "1" * 5000, [[1]], {}):
        with pytest.raises(WheelsError, match=f"^{field.name} must be"):
            build(owner, {field.name: value})
        if not isinstance(value, list | dict | str):
            with pytest.raises(WheelsError, match=f"^{field.name} must be"):
                check_fields(plain(value))
