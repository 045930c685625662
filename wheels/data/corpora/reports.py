"""Topics of the summarization corpus: what a report says of several things, and the one of them that matters.

The slots are those of `wheels.data.corpora.frames`. `{date2}` and `{number2}` (or `{price2}`) of a summary of a change
are the later date and its value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Phrases:
    """A topic in one language.

    Attributes:
        openings: first sentences; they say what the report is of.
        items: sentences of one thing each.
        summary: the fact that matters; of a change: that of a rise.
        falling: the summary of a fall, where the topic is a change.
    """

    openings: tuple[str, ...]
    items: tuple[str, ...]
    summary: str
    falling: str = ""


@dataclasses.dataclass(frozen=True)
class Topic:
    """What reports are of.

    Attributes:
        pick: which of the items the summary states: the "largest" or "smallest" value (the latest one is the largest
            date), or the "change" of the value from the earliest item to the latest.
        value: the slot by which items are compared; of a change, the slot that changes.
        items: the slots that each item has its own values for, beside `value`.
        phrases: by language.
    """

    pick: str
    value: str
    items: tuple[str, ...]
    phrases: Mapping[str, Phrases]


TOPICS = MappingProxyType(
    {
        "temperature": Topic("largest", "temperature", ("city", "time"), {
            "en": Phrases(
                ("On {date}, the weather service compared the temperatures of several cities.",
                 "These temperatures were measured on {date}."),
                ("In {city}, the thermometer showed {temperature}.", "{city} reported {temperature} at {time}.",
                 "At {time}, a temperature of {temperature} was measured in {city}."),
                "On {date}, it was warmest in {city}, at {temperature}."),
            "de": Phrases(
                ("Am {date} hat der Wetterdienst die Temperaturen mehrerer Städte verglichen.",
                 "Diese Temperaturen wurden am {date} gemessen."),
                ("In {city} zeigte das Thermometer {temperature} an.", "{city} meldete um {time} Uhr {temperature}.",
                 "Um {time} Uhr wurde in {city} eine Temperatur von {temperature} gemessen."),
                "Am {date} war es in {city} mit {temperature} am wärmsten."),
        }),
        "wind": Topic("largest", "speed", ("city", "time"), {
            "en": Phrases(
                ("A storm crossed several regions on {date}.", "On {date.full}, strong winds were reported."),
                ("The wind blew at {speed} in {city}.", "At {time}, gusts of {speed} were recorded in {city}.",
                 "{city} had winds of {speed} around {time}."),
                "The storm of {date} was strongest in {city}, where the wind reached {speed}."),
            "de": Phrases(
                ("Am {date} zog ein Sturm über mehrere Regionen.", "Am {date.full} wurde starker Wind gemeldet."),
                ("Der Wind wehte in {city} mit einer Geschwindigkeit von {speed}.",
                 "Um {time} Uhr wurden in {city} Böen von {speed} aufgezeichnet.",
                 "{city} hatte gegen {time} Uhr Wind mit {speed}."),
                "Der Sturm vom {date} war in {city} am stärksten, wo der Wind {speed} erreichte."),
        }),
        "cheapest": Topic("smallest", "price", ("city",), {
            "en": Phrases(
                ("In {date.month}, the prices of {thing} were compared in several cities.",
                 "How much {thing} costs depended on the city in {date.month}."),
                ("In {city}, the price was {price}.", "Customers in {city} paid {price}.",
                 "The market in {city} asked for {price}."),
                "In {date.month}, {thing} was cheapest in {city}, at {price}."),
            "de": Phrases(
                ("Im {date.month} wurden die Preise für {thing} in mehreren Städten verglichen.",
                 "Was {thing} kostet, hing im {date.month} von der Stadt ab."),
                ("In {city} betrug der Preis {price}.", "Kunden in {city} bezahlten {price}.",
                 "Der Markt in {city} verlangte {price}."),
                "Im {date.month} war {thing} in {city} mit {price} am billigsten."),
        }),
        "visitors": Topic("largest", "number", ("country",), {
            "en": Phrases(
                ("The museum in {city} asked its visitors in {date.month} where they came from.",
                 "In {date.month}, guests from many countries visited {city}."),
                ("{number} visitors came {country.from}.", "A total of {number} guests arrived {country.from}.",
                 "The number of tickets sold to people {country.from} was {number}."),
                "Most visitors to {city} in {date.month}, {number} in all, came {country.from}."),
            "de": Phrases(
                ("Das Museum in {city} hat seine Besucher im {date.month} gefragt, woher sie kamen.",
                 "Im {date.month} haben Gäste vieler Länder {city} besucht."),
                ("{number} Besucher kamen {country.from}.", "Insgesamt {number} Gäste reisten {country.from} an.",
                 "An Menschen {country.from} wurden {number} Karten verkauft."),
                "Die meisten Besucher in {city}, insgesamt {number}, kamen im {date.month} {country.from}."),
        }),
        "delivery": Topic("largest", "date", ("thing", "country"), {
            "en": Phrases(
                ("The warehouse in {city} published its arrivals.",
                 "Several deliveries have reached the warehouse in {city}."),
                ("The delivery of {thing} {country.from} arrived on {date}.",
                 "On {date}, {thing} was unloaded {country.from}.",
                 "The truck {country.from} brought {thing} on {date}."),
                "The latest delivery to {city} was {thing} {country.from} on {date}."),
            "de": Phrases(
                ("Das Lager in {city} hat seine Eingänge veröffentlicht.",
                 "Mehrere Lieferungen haben das Lager in {city} erreicht."),
                ("Die Lieferung von {thing} {country.from} kam am {date} an.",
                 "Am {date} wurde {thing} {country.from} ausgeladen.",
                 "Der Lastwagen {country.from} brachte am {date} {thing}."),
                "Zuletzt wurde in {city} am {date} {thing} {country.from} angeliefert."),
        }),
        "population": Topic("change", "number", ("date",), {
            "en": Phrases(
                ("The inhabitants of {city} were counted several times.",
                 "The statistics of {city} show how its population changed."),
                ("On {date}, {number} people lived in the city.", "The census of {date} counted {number} inhabitants.",
                 "There were {number} inhabitants on {date}."),
                "The population of {city} grew from {number} on {date} to {number2} on {date2}.",
                "The population of {city} fell from {number} on {date} to {number2} on {date2}."),
            "de": Phrases(
                ("Die Einwohner von {city} wurden mehrmals gezählt.",
                 "Die Statistik von {city} zeigt, wie sich die Bevölkerung verändert hat."),
                ("Am {date} lebten {number} Menschen in der Stadt.", "Die Zählung vom {date} ergab {number} Einwohner.",
                 "Es gab am {date} {number} Einwohner."),
                "Die Bevölkerung von {city} wuchs von {number} am {date} auf {number2} am {date2}.",
                "Die Bevölkerung von {city} sank von {number} am {date} auf {number2} am {date2}."),
        }),
        "market": Topic("change", "price", ("date",), {
            "en": Phrases(
                ("The price of {thing} in {city} did not stay the same.",
                 "Merchants in {city} have written down the price of {thing}."),
                ("On {date}, it was {price}.", "They asked for {price} on {date}.", "The list of {date} says {price}."),
                "In {city}, the price of {thing} rose from {price} on {date} to {price2} on {date2}.",
                "In {city}, the price of {thing} fell from {price} on {date} to {price2} on {date2}."),
            "de": Phrases(
                ("Der Preis für {thing} ist in {city} nicht gleich geblieben.",
                 "Händler in {city} haben den Preis für {thing} aufgeschrieben."),
                ("Am {date} betrug er {price}.", "Sie verlangten am {date} {price}.",
                 "Auf der Liste vom {date} steht {price}."),
                "In {city} stieg der Preis für {thing} von {price} am {date} auf {price2} am {date2}.",
                "In {city} fiel der Preis für {thing} von {price} am {date} auf {price2} am {date2}."),
        }),
        "survey": Topic("largest", "percent", ("language",), {
            "en": Phrases(
                ("A survey of {date} asked which languages are spoken in {city}.",
                 "On {date}, the schools of {city} counted the languages of their students."),
                ("{language} is spoken by {percent} of those asked.", "The share of {language} was {percent}.",
                 "For {percent}, {language} is the first language."),
                "The most common language in {city} on {date} was {language}, with {percent}."),
            "de": Phrases(
                ("Eine Umfrage vom {date} fragte, welche Sprachen in {city} gesprochen werden.",
                 "Am {date} haben die Schulen von {city} die Sprachen ihrer Schüler gezählt."),
                ("{language} wird von {percent} der Befragten gesprochen.",
                 "Der Anteil von {language} betrug {percent}.",
                 "Für {percent} ist {language} die erste Sprache."),
                "Die häufigste Sprache in {city} war am {date} mit {percent} {language}."),
        }),
        "fastest": Topic("smallest", "duration", ("role",), {
            "en": Phrases(
                ("Several travelers set out from {city} to {city2} on {date}.",
                 "Who gets from {city} to {city2} first was tried on {date}."),
                ("It took {role} {duration}.", "{role} was on the road for {duration}.",
                 "After {duration}, {role} arrived."),
                "From {city} to {city2}, {role} was fastest and needed {duration}."),
            "de": Phrases(
                ("Am {date} machten sich mehrere Reisende von {city} auf den Weg nach {city2}.",
                 "Wer zuerst von {city} nach {city2} kommt, wurde am {date} ausprobiert."),
                ("Für den Weg brauchte {role} {duration}.", "{role} war {duration} unterwegs.",
                 "Es vergingen {duration}, bis {role} ankam."),
                "Von {city} nach {city2} war {role} am schnellsten und brauchte {duration}."),
        }),
        "harvest": Topic("smallest", "mass", ("crop",), {
            "en": Phrases(
                ("The farmers {country.in} have weighed the harvest of {date.month}.",
                 "In {date.month}, the harvest was gathered {country.in}."),
                ("They harvested {mass} of {crop}.", "The fields yielded {mass} of {crop}.",
                 "The harvest of {crop} came to {mass}."),
                "In {date.month}, the smallest harvest {country.in} was that of {crop}, at {mass}."),
            "de": Phrases(
                ("Die Bauern {country.in} haben die Ernte vom {date.month} gewogen.",
                 "Im {date.month} wurde {country.in} die Ernte eingebracht."),
                ("Sie haben {mass} {crop} geerntet.", "Die Felder brachten {mass} {crop}.",
                 "Bei {crop} waren es {mass}."),
                "Im {date.month} wurde {country.in} mit nur {mass} am wenigsten {crop} geerntet."),
        }),
    }
)  # fmt: skip

# Sentences that are true of any report and never belong into its summary.
ASIDES = MappingProxyType(
    {
        "en": ("The next report is expected on {date9.weekday}.", "{role9} presented these figures in {city9}.",
               "Figures {country9.from} are still missing.", "The report was also translated into {language9}."),
        "de": ("Der nächste Bericht wird am {date9.weekday} erwartet.",
               "{role9} hat diese Zahlen in {city9} vorgestellt.",
               "Zahlen {country9.from} fehlen noch.",
               "Der Bericht ist auch auf {language9} erschienen."),
    }
)  # fmt: skip
