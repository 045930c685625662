"""Recipes: the settings of every stage of a run in one YAML file, a section a stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from wheels.config.fields import check_known, fields_of
from wheels.config.parsing import build, load_yaml
from wheels.config.paths import settings_digests
from wheels.errors import WheelsError, did_you_mean

Config = TypeVar("Config")


@dataclass(frozen=True)
class Recipe:
    """Sections of settings."""

    path: Path
    sections: Mapping[str, Mapping[str, Any]]
    """The settings of each stage, as they stand in the file."""

    @classmethod
    def read(cls, name: str | Path, sections: Sequence[str]) -> Recipe:
        """Read a file, or the shipped recipe of that name.

        Raises:
            WheelsError: naming the file, for what cannot be read, is not YAML, or has an unknown section.
        """
        place = find_recipe(name)
        content, _ = load_yaml(place)
        content = {} if content is None else content
        if not isinstance(content, dict) or not all(isinstance(part, dict | None) for part in content.values()):
            raise WheelsError(f"{place}: must hold sections ({', '.join(sections)}) of `key: value` lines")
        try:
            check_known([str(name) for name in content], sections, "section")
        except WheelsError as error:
            raise WheelsError(f"{place}: {error}") from None
        return cls(place, {name: dict(content.get(name) or {}) for name in sections})

    def configure(self, section: str, config_class: type[Config], **ours: Any) -> Config:
        """Return the configuration that a section asks for.

        What the run itself decides (`ours`), such as folders, a section may not set.

        Raises:
            WheelsError: naming the file and the section, for an unknown key or a value that is not allowed.
        """
        given = self.sections[section]
        places = [field.name for field in fields_of(config_class) if field.metadata.get("writes")]
        for name in (*ours, *places):
            if name in given:
                raise WheelsError(f"{self.path}: {section}: {name} is set by the run itself; take it out")
        try:
            return build(config_class, {**given, **{name: value for name, value in ours.items() if value is not None}})
        except WheelsError as error:
            raise WheelsError(f"{self.path}: {section}: {error}") from None


def with_digests(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the settings of a stage with the digests of the files that its configuration names."""
    return {**settings, **settings_digests(fields_of(type(config)), config)}


def find_recipe(name: str | Path) -> Path:
    """Return the file of that path, or the shipped recipe of that name.

    Raises:
        WheelsError: where there is neither: with all shipped ones, and the nearest.
    """
    if Path(name).is_file() or "/" in str(name):
        return Path(name)
    shipped, name = shipped_recipes(), str(name)
    if name in shipped:
        return shipped[name]
    raise WheelsError(
        f"no recipe {name!r}: neither a file, nor one of {', '.join(shipped)}{did_you_mean(name, shipped)}"
    )


def shipped_recipe(name: str) -> Path:
    """Return the file of a recipe that comes with the package."""
    return shipped_recipes()[name]


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(resources.files("wheels.benchmarks"))) / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def about(recipe: Path) -> tuple[str, str]:
    """Return the command that reads a shipped recipe, and what it is for, as its comment names them."""
    lines = takewhile(lambda line: line.startswith("#"), recipe.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    command = re.search(r"`wheels (bench [a-z]+|demo)", comment)
    return command[1] if command else "", re.split(r"[.;](?: |$)", comment)[0]
