"""Thirty everyday sentences, written for this test and found in no corpus, with the translations that we would give."""

from __future__ import annotations

EVERYDAY = (
    ("Guten Tag, wie geht es dir?", "Hello, how are you?"),
    ("Wann kommt der nächste Bus in die Stadt?", "When does the next bus to the city come?"),
    ("Ich habe heute Morgen meinen Schlüssel verloren.", "I lost my key this morning."),
    ("Kannst du mir bitte das Salz geben?", "Can you pass me the salt, please?"),
    ("Meine Schwester wohnt seit zwei Jahren in Berlin.", "My sister has been living in Berlin for two years."),
    ("Es regnet schon den ganzen Tag.", "It has been raining all day."),
    ("Wir gehen am Samstag ins Kino.", "We are going to the cinema on Saturday."),
    ("Der Hund schläft unter dem Tisch.", "The dog is sleeping under the table."),
    ("Hast du heute schon gefrühstückt?", "Have you had breakfast today?"),
    ("Ich möchte einen Kaffee ohne Zucker.", "I would like a coffee without sugar."),
    ("Das Fenster ist kaputt, wir müssen es reparieren.", "The window is broken, we have to repair it."),
    ("Mein Bruder spricht drei Sprachen.", "My brother speaks three languages."),
    ("Warum hast du mich gestern nicht angerufen?", "Why didn't you call me yesterday?"),
    ("Er arbeitet in einem Krankenhaus.", "He works in a hospital."),
    ("Die Kinder spielen im Garten.", "The children are playing in the garden."),
    ("Ich verstehe nicht, was du damit meinst.", "I don't understand what you mean by that."),
    ("Wie viel kostet dieses Buch?", "How much does this book cost?"),
    ("Unser Zug hatte eine Stunde Verspätung.", "Our train was an hour late."),
    ("Vergiss nicht, das Licht auszumachen.", "Don't forget to turn off the light."),
    ("Meine Mutter kocht jeden Sonntag Suppe.", "My mother cooks soup every Sunday."),
    ("Ich bin müde und will nach Hause gehen.", "I am tired and want to go home."),
    ("Wo hast du deine Brille hingelegt?", "Where did you put your glasses?"),
    ("Das Wetter wird morgen besser sein.", "The weather will be better tomorrow."),
    ("Er hat sein Auto verkauft, weil er Geld brauchte.", "He sold his car because he needed money."),
    ("Darf ich hier rauchen?", "May I smoke here?"),
    ("Wir haben uns lange nicht gesehen.", "We haven't seen each other for a long time."),
    ("Ihre Tochter lernt Klavier spielen.", "Her daughter is learning to play the piano."),
    ("Ich muss morgen früh aufstehen.", "I have to get up early tomorrow."),
    ("Der Film war viel zu lang.", "The film was much too long."),
    ("Können Sie mir sagen, wo der Bahnhof ist?", "Can you tell me where the station is?"),
)
"""Source and translation."""
