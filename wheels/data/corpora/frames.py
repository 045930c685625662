"""Sentence frames of the translation corpus: one idea each, written by hand in every language that has frames.

A slot is `{kind}` or `{kind2}` (a second value of the same kind), with `.form` where the language inflects or the
format differs: `{country.in}` is "in der Schweiz" / "in Switzerland", `{date.full}` has the weekday. Languages may
order the slots as they like, and ask for different forms of one value; every language of a frame uses the same slots.
"""

from __future__ import annotations

from types import MappingProxyType

# frame -> language -> text
FRAMES = MappingProxyType(
    {
        "train": {
            "de": "Der Zug nach {city} fährt am {date} um {time} Uhr in {city2} ab.",
            "en": "The train to {city} leaves {city2} at {time} on {date}.",
        },
        "late": {
            "de": "Weil das Flugzeug aus {city} verspätet war, ist {role} erst um {time} Uhr in {city2} angekommen.",
            "en": "Because the plane from {city} was late, {role} only arrived in {city2} at {time}.",
        },
        "bought": {
            "de": "In {city} hat {role} am {date} {mass} {thing} gekauft und dafür {price} bezahlt.",
            "en": "On {date}, {role} bought {mass} of {thing} in {city} and paid {price} for it.",
        },
        "tongues": {
            "de": "Obwohl {role} jahrelang {languages} gelernt hat, wird in {city} meistens {language} gesprochen.",
            "en": "Although {role} has studied {languages} for years, people in {city} mostly speak {language}.",
        },
        "tour": {
            "de": "Auf der Reise, die am {date} beginnt, will {role} {countries.acc} besuchen.",
            "en": "On the journey that begins on {date}, {role} wants to visit {countries}.",
        },
        "move": {
            "de": "Am {date.full} ist {role} {country.from} {country2.to} gezogen.",
            "en": "{role} moved {country.from} {country2.to} on {date.full}.",
        },
        "born": {
            "de": "{role}, {role.rel} am {date} in {city} geboren wurde, spricht heute fließend {languages}.",
            "en": "{role}, who was born in {city} on {date}, now speaks fluent {languages}.",
        },
        "export": {
            "de": "Im {date.month} wurden {country.from} {mass} {thing} {country2.to} geliefert.",
            "en": "In {date.month}, {mass} of {thing} were delivered {country.from} {country2.to}.",
        },
        "share": {
            "de": "Nach der Umfrage vom {date} sprechen {percent} der Einwohner zu Hause {language}.",
            "en": "According to the survey of {date}, {percent} of the inhabitants speak {language} at home.",
        },
        "people": {
            "de": "{country.in} leben {number} Menschen, von denen {percent} {language} verstehen.",
            "en": "{number} people live {country.in}, {percent} of whom understand {language}.",
        },
        "exchange": {
            "de": "Wer am Bahnhof von {city} {currency} wechseln will, bekommt nach {time} Uhr nur noch {currency2}.",
            "en": "Anyone who wants to change {currency} at the station in {city} only gets {currency2} after {time}.",
        },
        "road": {
            "de": "Die Straße, die {city} mit {city2} verbindet, ist {length} lang und wurde am {date} eröffnet.",
            "en": "The road that connects {city} with {city2} is {length} long and was opened on {date}.",
        },
        "weather": {
            "de": "Am {date.weekday} soll es in {city} bis zu {temperature} warm werden.",
            "en": "Temperatures in {city} are expected to reach up to {temperature} on {date.weekday}.",
        },
        "lake": {
            "de": "Der See liegt {country.in}, ist {length} lang und bedeckt eine Fläche von etwa {area}.",
            "en": "The lake lies {country.in}, is {length} long and covers an area of about {area}.",
        },
        "manuscript": {
            "de": (
                "Die Handschrift, die {role} in {city} entdeckt hat, ist auf {language} in der Schrift "
                "„{script}“ verfasst."
            ),
            "en": (
                "The manuscript that {role} discovered in {city} is written in {language} using the “{script}” script."
            ),
        },
        "script": {
            "de": "Früher wurde {language} {country.in} mit der Schrift „{script}“ geschrieben.",
            "en": "{language} used to be written with the “{script}” script {country.in}.",
        },
        "rent": {
            "de": "Eine Wohnung, die {room} groß ist, kostet in {city} seit {date.month} monatlich {price}.",
            "en": "Since {date.month}, an apartment of {room} in {city} has cost {price} a month.",
        },
        "meeting": {
            "de": (
                "Die Sitzung in {city} wurde auf {date.weekday} um {time} Uhr verschoben, weil {role} noch "
                "{country.in} ist."
            ),
            "en": "The meeting in {city} was moved to {date.weekday} at {time} because {role} is still {country.in}.",
        },
        "course": {
            "de": "Am {date.day} beginnt um {time} Uhr der Kurs, in dem {role} {language} unterrichtet.",
            "en": "The course in which {role} teaches {language} begins at {time} on {date.day}.",
        },
        "translate": {
            "de": (
                "{role} soll den Vertrag bis {date.weekday} aus der Sprache {language} ins {language2.into} übersetzen."
            ),
            "en": "{role} is supposed to translate the contract from {language} into {language2} by {date.weekday}.",
        },
        "prices": {
            "de": "Der Preis für {thing} ist {country.in} um {percent} auf {price.name} gestiegen.",
            "en": "The price of {thing} has risen by {percent} to {price.name} {country.in}.",
        },
        "cheaper": {
            "de": "{thing}, wofür man in {city} {price} bezahlt, kostet {country.in} nur {price2}.",
            "en": "{thing}, for which people pay {price} in {city}, costs only {price2} {country.in}.",
        },
        "ship": {
            "de": "Das Schiff, das {volume} {liquid} geladen hatte, verließ am {date} den Hafen von {city}.",
            "en": "The ship, which had loaded {volume} of {liquid}, left the port of {city} on {date}.",
        },
        "speed": {
            "de": "Zwischen {city} und {city2} erreicht der neue Zug eine Geschwindigkeit von bis zu {speed}.",
            "en": "The new train reaches a speed of up to {speed} between {city} and {city2}.",
        },
        "letter": {
            "de": "Den Brief, der am {date} aus {city} kam, konnte {role} nicht lesen, denn er war auf {language}.",
            "en": "{role} could not read the letter that came from {city} on {date}, because it was in {language}.",
        },
        "border": {
            "de": "Wer {country.from} {country2.to} reisen will, braucht seit dem {date} kein Visum mehr.",
            "en": "Since {date}, anyone who wants to travel {country.from} {country2.to} no longer needs a visa.",
        },
        "embassy": {
            "de": "Die neue Botschaft in {city} ist auch für {countries.acc} zuständig.",
            "en": "The new embassy in {city} is also responsible for {countries}.",
        },
        "vote": {
            "de": "Bei der Wahl am {date} stimmten {number} Menschen, also {percent}, für das neue Gesetz.",
            "en": "In the election on {date}, {number} people, that is {percent}, voted for the new law.",
        },
        "debt": {
            "de": "Bevor {role} {country.to} zurückkehrt, müssen noch {price.name} bezahlt werden.",
            "en": "Before {role} returns {country.to}, {price.name} still have to be paid.",
        },
        "power": {
            "de": "Das Kraftwerk bei {city}, das {role} am {date} eröffnet hat, leistet bis zu {power}.",
            "en": "The power plant near {city}, which {role} opened on {date}, produces up to {power}.",
        },
        "archive": {
            "de": "Das Archiv in {city} hat {digital} an Aufnahmen auf {languages} gespeichert.",
            "en": "The archive in {city} has stored {digital} of recordings in {languages}.",
        },
        "hotel": {
            "de": "Im Hotel in {city}, das {role} empfohlen hat, kostet ein Zimmer ab {date.day} {price}.",
            "en": "At the hotel in {city} that {role} recommended, a room costs {price} from {date.day}.",
        },
        "parcel": {
            "de": "Das Paket, das {mass} wiegt, wird am {date.weekday} {country.from} nach {city} geschickt.",
            "en": "The parcel, which weighs {mass}, will be sent {country.from} to {city} on {date.weekday}.",
        },
        "harvest": {
            "de": (
                "Obwohl sie nur {area} bewirtschaften, haben die Bauern bei {city} im {date.month} {mass} "
                "{crop} geerntet."
            ),
            "en": "Although they only work {area}, the farmers near {city} harvested {mass} of {crop} in {date.month}.",
        },
        "guide": {
            "de": "Weil {role} nur {language} versteht, hat das Museum in {city} eine Führung um {time} Uhr angeboten.",
            "en": "Because {role} only understands {language}, the museum in {city} offered a tour at {time}.",
        },
        "union": {
            "de": "Am {date} haben {countries} in {city} ein Abkommen über {thing} unterzeichnet.",
            "en": "{countries} signed an agreement on {thing} in {city} on {date}.",
        },
        "phone": {
            "de": "{role} hat {role2.dat} um {time} Uhr erzählt, dass der Flug nach {city} {price} gekostet hat.",
            "en": "At {time}, {role} told {role2} that the flight to {city} had cost {price}.",
        },
        "help": {
            "de": "Am {date.full} hat {role} {role2.dat} geholfen, das Formular auf {language} auszufüllen.",
            "en": "On {date.full}, {role} helped {role2} to fill in the form in {language}.",
        },
        "meet": {
            "de": "Wenn {role} am {date.day} {country.in} ist, möchte {role2} {role.acc} dort treffen.",
            "en": "If {role} is {country.in} on {date.day}, {role2} would like to meet {role} there.",
        },
        "coin": {
            "de": "Auf der alten Münze, für die {role} {price} verlangt, steht der Name der Währung: {currency}.",
            "en": "The old coin, for which {role} is asking {price}, bears the name of the currency: {currency}.",
        },
        "tax": {
            "de": "{country.in} gilt für {thing} seit dem {date} ein Steuersatz von {percent}.",
            "en": "A tax rate of {percent} has applied to {thing} {country.in} since {date}.",
        },
        "waiting": {
            "de": "Nachdem {role} {duration} in {city} gewartet hatte, fuhr um {time} Uhr endlich ein Bus.",
            "en": "After {role} had waited in {city} for {duration}, a bus finally left at {time}.",
        },
        "clock": {
            "de": "Wenn es in {city} {time} Uhr ist, schlafen die meisten Menschen in {city2} schon.",
            "en": "When it is {time} in {city}, most people in {city2} are already asleep.",
        },
        "found": {
            "de": "Dass es {country.in} mehr {thing} als {country2.in} gibt, hat {role} erst in {city} erfahren.",
            "en": "{role} only learned in {city} that there is more {thing} {country.in} than {country2.in}.",
        },
    }
)

# What is said of two locales where one has no frames: values alone, in one order, which needs no grammar.
FALLBACK = MappingProxyType(
    {
        "fallback-journey": "{date.full}; {time}; {city}; {country.name}",
        "fallback-price": "{city}; {date}; {price.name}; {language}",
        "fallback-goods": "{country.name}; {mass}; {price}; {percent}",
        "fallback-languages": "{languages}; {country.name}; {number}",
        "fallback-countries": "{countries.name}; {date}; {percent}",
        "fallback-weather": "{city}; {date.full}; {temperature}; {speed}",
        "fallback-script": "{language}; {script}; {country.name}; {date.month}",
        "fallback-road": "{city}; {city2}; {length}; {duration}",
        "fallback-money": "{currency}; {price}; {country.name}; {time}",
        "fallback-power": "{power}; {area}; {city}; {date.month}",
        "fallback-archive": "{digital}; {languages}; {city}",
        "fallback-ship": "{volume}; {city}; {date.full}; {country.name}",
    }
)
