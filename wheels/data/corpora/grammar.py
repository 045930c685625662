"""What CLDR does not say and a sentence needs: the cases of names of countries, and the words that are not names.

German names of countries have a gender, a number and, some of them, adjectives that inflect:
"Vereinigte Staaten" is "in den Vereinigten Staaten" and "in die Vereinigten Staaten".
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

# Territories (ISO codes) that take an article in German; every other one has none.
_FEMININE = frozenset("CH TR UA SK MN DO CF EH MD HK MO VA CX NF IM".split())  # noqa: SIM905
_PLURAL = frozenset("US AE NL PH BS MV SC KM SB MH CK FK KY CC IC PN AX FO TC VG VI MP PS BQ".split())  # noqa: SIM905
_MASCULINE = frozenset("IQ IR YE LB SD SS TD NE XK".split())  # noqa: SIM905
_NEUTER = frozenset({"GB"})
# Of these, the ones that one is ON, not IN.
_ISLANDS = frozenset("CX NF IM PH BS MV SC KM SB MH CK FK KY CC IC PN AX FO TC VG VI MP".split())  # noqa: SIM905
_ARTICLES = MappingProxyType(
    {
        "nom": {"f": "die", "p": "die", "m": "der", "n": "das"},
        "acc": {"f": "die", "p": "die", "m": "den", "n": "das"},
        "dat": {"f": "der", "p": "den", "m": "dem", "n": "dem"},
    }
)
_ADJECTIVES = frozenset(
    {"Vereinigte", "Vereinigtes", "Arabische", "Britische", "Amerikanische", "Nördliche", "Palästinensische"}
    | {"Karibische", "Dominikanische", "Zentralafrikanische"}
)


def _gender(code: str) -> str:
    for letter, codes in (("f", _FEMININE), ("p", _PLURAL), ("m", _MASCULINE), ("n", _NEUTER)):
        if code in codes:
            return letter
    return ""


def _declined(name: str, gender: str, case: str) -> str:
    """Return `name` as it stands after its definite article (weak declension)."""
    words = name.split(" ")
    ending = "n" if gender == "p" or case == "dat" else ""
    words = [word.removesuffix("s") + ending if word in _ADJECTIVES else word for word in words]
    if gender == "p" and case == "dat" and words[-1][-1] in "er":
        words[-1] += "n"
    return " ".join(words)


def german_country(code: str, name: str, form: str) -> str:
    """Return a country in a German sentence.

    Args:
        code: its ISO code.
        name: its German name without an article.
        form: "nom", "acc" or "dat" (with the article where there is one), "in" (where), "to" (whither),
            "from" (whence).
    """
    gender = _gender(code)
    cases = {
        case: f"{_ARTICLES[case][gender]} {_declined(name, gender, case)}" if gender else name
        for case in ("nom", "acc", "dat")
    }
    if form in cases:
        return cases[form]
    place = "auf" if code in _ISLANDS else "in"
    if form == "in":
        return f"{place} {cases['dat']}"
    if form == "to":
        return f"{place} {cases['acc']}" if gender else f"nach {name}"
    return f"{'von' if code in _ISLANDS else 'aus'} {cases['dat']}"


_ENGLISH_THE = frozenset("US GB AE NL PH BS MV SC KM DO CF GM FK IM PS BQ".split())  # noqa: SIM905


def english_country(code: str, name: str, form: str) -> str:
    """Return a country in an English sentence: `form` as in `german_country`; the cases are all the same."""
    full = f"the {name}" if code in _ENGLISH_THE or name.endswith(" Islands") else name
    return {"in": f"in {full}", "to": f"to {full}", "from": f"from {full}"}.get(form, full)


COUNTRY = MappingProxyType[str, Callable[[str, str, str], str]]({"de": german_country, "en": english_country})


def german_language(name: str, form: str) -> str:
    """Return the name of a language in a German sentence; form "into": "(ins) Spanische"."""
    return f"{name}e" if form == "into" and name.endswith(("isch", "eutsch")) else name


# German (nominative, accusative, dative) and English.
ROLES = MappingProxyType(
    {
        key: {
            "de": {"": f"{nom} {noun}", "acc": f"{acc} {noun}", "dat": f"{dat} {noun}", "rel": nom},
            "en": {"": f"the {key}"},
        }
        for nom, acc, dat, nouns in (
            (
                "die", "die", "der",
                {
                    "doctor": "Ärztin", "teacher": "Lehrerin", "engineer": "Ingenieurin", "mayor": "Bürgermeisterin",
                    "painter": "Malerin", "judge": "Richterin", "nurse": "Krankenschwester", "singer": "Sängerin",
                    "librarian": "Bibliothekarin", "scientist": "Wissenschaftlerin", "photographer": "Fotografin",
                    "chemist": "Chemikerin", "writer": "Schriftstellerin", "grandmother": "Großmutter",
                    "pilot": "Pilotin", "ambassador": "Botschafterin", "captain": "Kapitänin", "aunt": "Tante",
                },
            ),
            (
                "der", "den", "dem",
                {
                    "merchant": "Händler", "baker": "Bäcker", "farmer": "Landwirt", "minister": "Minister",
                    "gardener": "Gärtner", "carpenter": "Tischler", "driver": "Fahrer", "butcher": "Metzger",
                    "translator": "Übersetzer", "fisherman": "Fischer", "actor": "Schauspieler", "waiter": "Kellner",
                    "locksmith": "Schlosser", "historian": "Historiker", "tailor": "Schneider", "uncle": "Onkel",
                    "neighbor": "Nachbar", "clockmaker": "Uhrmacher",
                },
            ),
        )
        for key, noun in nouns.items()
    }
)  # fmt: skip
# "Nachbar" is weak: it ends in -n in every case but the first.
ROLES["neighbor"]["de"].update(acc="den Nachbarn", dat="dem Nachbarn")

_LIQUIDS = {"milk": "Milch", "olive oil": "Olivenöl", "wine": "Wein", "petrol": "Benzin", "diesel": "Diesel",
            "apple juice": "Apfelsaft", "vinegar": "Essig", "crude oil": "Rohöl", "paint": "Farbe",
            "water": "Wasser"}  # fmt: skip
_CROPS = {"wheat": "Weizen", "rice": "Reis", "maize": "Mais", "barley": "Gerste", "cotton": "Baumwolle", "tea": "Tee",
          "coffee": "Kaffee", "rye": "Roggen", "flax": "Flachs", "tobacco": "Tabak"}  # fmt: skip
_OTHERS = {"sugar": "Zucker", "salt": "Salz", "copper": "Kupfer", "wood": "Holz", "wool": "Wolle", "cocoa": "Kakao",
           "honey": "Honig", "steel": "Stahl", "paper": "Papier", "cement": "Zement", "silk": "Seide", "flour": "Mehl",
           "leather": "Leder", "cheese": "Käse", "butter": "Butter", "coal": "Kohle", "silver": "Silber",
           "tin": "Zinn", "lead": "Blei", "glass": "Glas", "rubber": "Gummi", "cinnamon": "Zimt", "pepper": "Pfeffer",
           "soap": "Seife", "garlic": "Knoblauch", "fish": "Fisch", "meat": "Fleisch", "ginger": "Ingwer"}  # fmt: skip
# Kind of slot -> goods: a crop is harvested, a liquid is measured in litres, a thing is any of all.
GOODS = MappingProxyType(
    {
        "liquid": tuple(sorted(_LIQUIDS)),
        "crop": tuple(sorted(_CROPS)),
        "thing": tuple(sorted(_LIQUIDS | _CROPS | _OTHERS)),
    }
)
THINGS = MappingProxyType({key: {"de": noun, "en": key} for key, noun in (_LIQUIDS | _CROPS | _OTHERS).items()})
