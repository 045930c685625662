"""The material of the embedded corpora: names, dates, prices and units of the Unicode CLDR, read through Babel.

A value is one thing in no language (an ISO code, a date, an amount with its unit); `Pools` draws values that both
languages have a name for, `Words` says a value in one language. The special spaces of CLDR (no-break, narrow no-break,
thin) become plain ones and the marks of direction go, in every language alike: they look like nothing, and a model
would have to learn them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from random import Random
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.core import get_global
from babel.dates import format_date, format_skeleton, format_time
from babel.lists import format_list
from babel.localedata import locale_identifiers
from babel.numbers import (
    format_currency,
    format_decimal,
    format_percent,
    get_currency_name,
    get_territory_currencies,
)
from babel.units import format_unit

from wheels.data.corpora import grammar
from wheels.errors import WheelsError, did_you_mean

_PLAIN = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u200e": None, "\u200f": None, "\u061c": None})
# Codes of CLDR that are no country to travel to, or whose German name cannot be declined by a table.
_NO_COUNTRY = frozenset("AC AQ BV CP CQ DG EA EU EZ GS HM IO QO TA TF UM UN VC XA XB ZZ".split())  # noqa: SIM905
_NO_LANGUAGE = frozenset({"mis", "mul", "und", "zxx"})
_CONTINENTS = frozenset({"Africa", "America", "Asia", "Australia", "Europe"})
# Zones that are named after an island or a region, which one is not "in" in German.
_NO_CITY = frozenset({"Antigua", "Cayman", "Isle_of_Man", "Kamchatka", "Lindeman", "Lord_Howe", "Noronha", "Sakhalin"})
_NO_CITY |= {"St_Kitts", "St_Thomas", "St_Vincent", "Tortola", "Vatican"}
# Unit -> the smallest and the largest amount that is said in it, and the decimals of that amount.
_UNITS: dict[str, dict[str, tuple[int, int, int]]] = {
    "length": {"kilometer": (2, 900, 1), "meter": (50, 5000, 0), "mile": (2, 700, 1), "nautical-mile": (2, 90, 1),
               "yard": (90, 2000, 0), "foot": (100, 9000, 0)},
    "mass": {"kilogram": (2, 900, 1), "tonne": (2, 90, 1), "pound": (2, 900, 0), "ounce": (4, 90, 0),
             "gram": (20, 900, 0)},
    "area": {"square-kilometer": (2, 900, 1), "hectare": (2, 900, 1), "square-mile": (2, 900, 0), "acre": (3, 900, 0)},
    "volume": {"liter": (2, 900, 0), "cubic-meter": (2, 900, 1), "gallon": (2, 900, 0), "barrel": (2, 900, 0),
               "hectoliter": (2, 90, 1)},
    "temperature": {"celsius": (2, 41, 1), "fahrenheit": (35, 105, 0)},
    "speed": {"kilometer-per-hour": (40, 400, 0), "mile-per-hour": (30, 250, 0), "meter-per-second": (9, 99, 1)},
    "digital": {"gigabyte": (2, 900, 0), "terabyte": (2, 90, 1), "megabyte": (20, 990, 0)},
    "power": {"megawatt": (2, 900, 1), "kilowatt": (20, 990, 0), "gigawatt": (2, 9, 1), "horsepower": (90, 9000, 0)},
    "duration": {"minute": (10, 55, 0), "hour": (2, 20, 0), "day": (2, 29, 0), "week": (2, 9, 0)},
}  # fmt: skip
# Half of all prices are in these, as in the world.
_COMMON_CURRENCIES = ("AUD", "CAD", "CHF", "CNY", "EUR", "GBP", "INR", "JPY", "USD")
_FIRST_DAY, _DAYS = datetime.date(1990, 1, 1), 14_610


def parse_locale(code: str) -> Locale:
    """Return Babel's locale of `code` ("de", "pt_BR").

    Raises:
        WheelsError: where CLDR has none, with the nearest that it has.
    """
    try:
        return Locale.parse(code)
    except (UnknownLocaleError, ValueError, TypeError):
        hint = did_you_mean(code, locale_identifiers())
        raise WheelsError(f"{code!r} is not a locale of the Unicode CLDR (as de, en, pt_BR){hint}") from None


def _zone_city(locale: Locale, zone: str) -> str:
    named = locale.time_zones.get(zone, {}).get("city")
    return str(named or zone.rsplit("/", 1)[-1].replace("_", " "))


class Words:
    """Says values in one language, with a cache of what was said."""

    def __init__(self, code: str) -> None:
        """Read the locale `code`; grammar comes from `wheels.data.corpora.grammar` where it knows the language."""
        self.locale = parse_locale(code)
        self.language: str = self.locale.language
        self._said: dict[tuple[str, Any, str], str] = {}
        self._ways: dict[str, Callable[[Any, str], str]] = {
            "city": lambda zone, form: _zone_city(self.locale, zone),
            "country": self._country,
            "language": self._language,
            "script": lambda code, form: self.locale.scripts[code],
            "currency": lambda code, form: get_currency_name(code, locale=self.locale),
            "date": self._date,
            "time": lambda time, form: format_time(time, "short", locale=self.locale),
            "price": self._price,
            "percent": lambda share, form: format_percent(share, locale=self.locale, decimal_quantization=False),
            "number": lambda number, form: format_decimal(number, locale=self.locale),
            "role": lambda key, form: _in_form(grammar.ROLES[key][self.language], form),
        }
        self._ways.update(dict.fromkeys(_UNITS, self._unit), room=self._unit)
        self._ways.update(dict.fromkeys(grammar.GOODS, lambda key, form: grammar.THINGS[key][self.language]))

    def say(self, kind: str, value: Any, form: str = "") -> str:
        """Return `value`, which is of `kind`, in this language; `form` is its case or its format.

        A tuple of values is a list: "A, B und C".
        """
        key = (kind, value, form)
        if key not in self._said:
            if type(value) is tuple and kind in ("languages", "countries"):
                one = "language" if kind == "languages" else "country"
                said = format_list([self.say(one, each, form) for each in value], locale=self.locale)
            else:
                said = self._ways[kind](value, form)
            self._said[key] = said.translate(_PLAIN)
        return self._said[key]

    def _country(self, code: str, form: str) -> str:
        name = self.locale.territories[code]
        rule = grammar.COUNTRY.get(self.language)
        return rule(code, name, form or "nom") if rule and form != "name" else name

    def _language(self, code: str, form: str) -> str:
        name = self.locale.languages[code]
        return grammar.german_language(name, form) if self.language == "de" else name

    def _date(self, date: datetime.date, form: str) -> str:
        if form in ("", "full"):
            return format_date(date, form or "long", locale=self.locale)
        if form == "weekday":
            return format_date(date, "EEEE", locale=self.locale)
        return format_skeleton({"month": "yMMMM", "day": "MMMMd"}[form], date, locale=self.locale)

    def _price(self, price: tuple[Decimal, str], form: str) -> str:
        return format_currency(*price, locale=self.locale, format_type="name" if form == "name" else "standard")

    def _unit(self, measure: tuple[Decimal, str], form: str) -> str:
        return format_unit(*measure, length="long", locale=self.locale)


def _in_form(forms: Mapping[str, str], form: str) -> str:
    return forms.get(form, forms[""])


def _clean(name: str | None) -> bool:
    """Whether a name can stand in a sentence: no years, brackets or commas, at most three words."""
    return bool(name) and not any(c in str(name) for c in "()[],;:0123456789") and len(str(name).split()) <= 3


class Pools:
    """What a slot of each kind may hold: values that have a name in every one of the given languages.

    No two values of one kind share a name in any of the languages, so that a name can be translated without a doubt.
    """

    def __init__(self, languages: Sequence[Words]) -> None:
        """Keep the `languages`; a pool is made when the first value is drawn from it."""
        self._languages = languages

    def draw(self, kind: str, random: Random) -> Any:
        """Return a value of `kind`."""
        if kind in _UNITS:
            unit = random.choice(self.units[kind])
            return _amount(random, *_UNITS[kind][unit]), f"{kind}-{unit}"
        if kind in grammar.GOODS:
            return random.choice(grammar.GOODS[kind])
        return getattr(self, f"_draw_{kind}")(random)

    def has(self, kind: str) -> bool:
        """Whether there is something to draw: some languages have no name for any unit of a kind."""
        return bool(self.units[kind]) if kind in _UNITS else True

    def _draw_city(self, random: Random) -> str:
        return random.choice(self.cities)

    def _draw_country(self, random: Random) -> str:
        return random.choice(self.countries)

    def _draw_language(self, random: Random) -> str:
        return random.choice(self.languages)

    def _draw_script(self, random: Random) -> str:
        return random.choice(self.scripts)

    def _draw_currency(self, random: Random) -> str:
        return random.choice(self.currencies)

    def _draw_role(self, random: Random) -> str:
        return random.choice(sorted(grammar.ROLES))

    def _draw_languages(self, random: Random) -> tuple[str, ...]:
        return tuple(random.sample(self.languages, random.choice((2, 2, 3))))

    def _draw_countries(self, random: Random) -> tuple[str, ...]:
        return tuple(random.sample(self.countries, random.choice((2, 3, 3))))

    def _draw_date(self, random: Random) -> datetime.date:
        return _FIRST_DAY + datetime.timedelta(days=random.randrange(_DAYS))

    def _draw_time(self, random: Random) -> datetime.time:
        return datetime.time(random.randrange(24), random.randrange(0, 60, 5))

    def _draw_price(self, random: Random) -> tuple[Decimal, str]:
        currency = random.choice(random.choice((_COMMON_CURRENCIES, self.currencies)))
        return _amount(random, 2, random.choice((20, 500, 9000)), 2), currency

    def _draw_percent(self, random: Random) -> Decimal:
        return _amount(random, 1, 99, 1) / 100

    def _draw_number(self, random: Random) -> int:
        return random.randrange(1_000, random.choice((100_000, 10_000_000)))

    def _draw_room(self, random: Random) -> tuple[Decimal, str]:
        return Decimal(random.randrange(18, 240)), "area-square-meter"

    @cached_property
    def units(self) -> dict[str, list[str]]:
        """The units of each kind that have a name in every language (Babel says the code of one that has none)."""

        def named(unit: str) -> bool:
            said = (
                words.say("length", (Decimal(n), unit)) for words in self._languages for n in ("2", "5", "2.5", "100")
            )
            return not any(unit in text for text in said)

        return {kind: sorted(unit for unit in units if named(f"{kind}-{unit}")) for kind, units in _UNITS.items()}

    @cached_property
    def cities(self) -> list[str]:
        """Cities of the time zones, by the zone's name; islands that are named like their country are left out."""
        english = Locale("en")
        territories = get_global("zone_territories")
        zones = (z for z in territories if z.count("/") == 1 and z.split("/")[0] in _CONTINENTS)
        named = [z for z in zones if _zone_city(english, z) not in english.territories.values()]
        return self._distinct("city", [z for z in named if z.split("/")[1] not in _NO_CITY])

    @cached_property
    def countries(self) -> list[str]:
        """ISO codes of countries and territories."""
        known = set.intersection(*(set(words.locale.territories) for words in self._languages))
        return self._distinct("country", [c for c in known if len(c) == 2 and c not in _NO_COUNTRY], long=True)

    @cached_property
    def languages(self) -> list[str]:
        """ISO 639 codes of languages."""
        known = set.intersection(*(set(words.locale.languages) for words in self._languages))
        return self._distinct("language", [c for c in known if len(c) <= 3 and c not in _NO_LANGUAGE])

    @cached_property
    def scripts(self) -> list[str]:
        """ISO 15924 codes of scripts."""
        known = set.intersection(*(set(words.locale.scripts) for words in self._languages))
        return self._distinct("script", [c for c in known if not c.startswith("Z")])

    @cached_property
    def currencies(self) -> list[str]:
        """ISO 4217 codes of the currencies that are legal tender somewhere in 2024."""
        day = datetime.date(2024, 1, 1)
        used = {c for code in get_global("territory_currencies") for c in get_territory_currencies(code, day, day)}
        return self._distinct("currency", [c for c in used if all(c in w.locale.currencies for w in self._languages)])

    def _distinct(self, kind: str, values: list[str], long: bool = False) -> list[str]:
        taken: list[set[str]] = [set() for _ in self._languages]
        kept = []
        for value in sorted(values):
            names = [words.say(kind, value, "name") for words in self._languages]
            fits = all(names) if long else all(map(_clean, names))
            if fits and not any(name in seen for name, seen in zip(names, taken, strict=True)):
                kept.append(value)
                for name, seen in zip(names, taken, strict=True):
                    seen.add(name)
        return kept


def _amount(random: Random, low: int, high: int, decimals: int) -> Decimal:
    scale = int(10**decimals)
    return Decimal(random.randrange(low * scale, high * scale)) / Decimal(scale)
