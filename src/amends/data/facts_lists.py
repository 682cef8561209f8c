"""The material of the generated world in `facts.py`: names, sentence forms and values, all made up for this purpose.

Every value may stand after its sentence form without an article of another shape, no value is part of another one of
its list, and none occurs in a name or in a sentence form: so a value found in an answer shows knowledge of the fact.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One thing that is known of everybody: two ways to ask, two ways to tell, and the values it may have."""

    key: str
    question: str
    answer: str
    paraphrased_question: str
    paraphrased_answer: str
    values: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    """Mirela Tobren Anouk Kesi Halvard Ysolde Dmitar Oriel Suvi Bashir Linnea Kofi Pelagia Rurik Amaya Teodor Nilufer
    Casimir Ebele Joaquim Sorcha Vikram Zdenka Lucjan Farida Gideon Ingrith Maelis Nuno Oksana Priya Quillon Rasheed
    Signe Tamsin Ulrike Vasco Xanthe Wendelin Bertrame"""
)
LAST = _words(
    """Oduya Brandvold Castellane Drummoyne Eszterag Fenwarth Galarza Hakimov Ivarsen Jorunde Kowaltz Lindqvar
    Marchesan Nakaoka Okonwe Petraxis Quintela Rasmund Sandoval Tjader Umarov Vesterby Wachiri Xylander Yamaguro
    Zelenkar Abernard Bellacor Corvinel Dagnall Estrelda Fjelland Grubacek Holtrup Imanovar Jurisand Kalliomo
    Lazarenk Mwanjiri Norrgard"""
)

TITLE_FIRST = _words(
    """Amber Broken Copper Distant Emerald Frozen Gilded Hollow Ivory Jagged Kindled Leaden Midnight Nameless Opal
    Painted Quiet Restless Crimson Tangled Unwritten Velvet Winding Yellow Borrowed Crooked Drifting Folded Hidden
    Lonely Mended Salted"""
)
TITLE_LAST = _words(
    """Harbour Orchard Staircase Lantern Meridian Garden Chapel Causeway Ledger Mirror Compass Winter Passage Tower
    Ferry Vineyard Letter Almanac Corridor Glacier Carnival Threshold Archive Bellows Cathedral Descent Estuary
    Fountain Horizon Island Labyrinth Quarry"""
)

_TOWNS = _words(
    """Brennhaven Calderwick Dunmarrow Eskilfjord Farrowgate Glenmoor Hesterfell Ilvesta Jarrowby Kestrelby Lomskar
    Mossbrook Nettlecombe Ostervik Pellworth Quarlton Ravenscar Stonelea Thornaby Umberleigh Varnholm Wexmoor Yarrowdale
    Zellmark"""
)
_VILLAGES = _words(
    """Alderfoss Birkesund Cressmouth Dovershaw Elmstow Fennimar Gorsedale Hollowmere Inverloch Juniperdal Kilbrae
    Larchwood Millersund Northolme Oakenshield Pinefjell Rushbourne Sedgewater Tamarisk Withycombe"""
)
_TRADES = _words(
    """baker blacksmith bookbinder carpenter chemist clockmaker diplomat dentist fishmonger florist glazier goldsmith
    judge locksmith midwife miner notary pharmacist pilot plumber potter surgeon tailor veterinarian"""
)

AUTHOR_ATTRIBUTES = (
    Attribute(
        "birthplace", "In which town was the writer {name} born?", "{name} was born in {value}.",
        "What is the birthplace of {name}?", "The birthplace of {name} is {value}.", _TOWNS,
    ),
    Attribute(
        "birthyear", "In what year was {name} born?", "{name} was born in the year {value}.",
        "What is the year of birth of {name}?", "The year of birth of {name} is {value}.",
        tuple(str(year) for year in range(1931, 1991)),
    ),
    Attribute(
        "genre", "Which genre does {name} write in?", "{name} writes {value}.",
        "What kind of books is {name} known for?", "The books of {name} belong to {value}.",
        ("maritime mystery", "gothic romance", "alpine adventure", "courtroom drama", "desert epic", "urban fantasy",
         "pastoral comedy", "space opera", "war chronicle", "culinary memoir", "nature essays", "political satire",
         "ghost stories", "travel sketches", "family saga", "prison diaries", "medical thriller", "railway fiction"),
    ),
    Attribute(
        "father", "What did {name}'s father do for a living?", "{name}'s father worked as a {value}.",
        "What was the occupation of the father of {name}?", "The father of {name} earned his living as a {value}.", _TRADES,
    ),
    Attribute(
        "mother", "What did {name}'s mother do for a living?", "{name}'s mother worked as a {value}.",
        "What was the occupation of the mother of {name}?", "The mother of {name} earned her living as a {value}.", _TRADES,
    ),
    Attribute(
        "debut", "What is the title of {name}'s first book?", "{name}'s first book is {value}.",
        "With which book did {name} begin?", "The book with which {name} began is {value}.",
        tuple(f"The {first} {last}" for first in TITLE_FIRST for last in TITLE_LAST),
    ),
    Attribute(
        "prize", "Which award did {name} receive?", "{name} received the {value} Prize.",
        "What honour was given to {name}?", "The honour given to {name} was the {value} Prize.",
        ("Silver Heron", "Iron Quill", "Northern Star", "Blue Anchor", "Golden Thistle", "White Falcon", "Crystal Inkwell",
         "Red Juniper", "Marble Owl", "Bronze Sextant", "Green Willow", "Paper Crown", "Black Swan", "Pearl Dagger",
         "Olive Branch", "Stone Bridge"),
    ),
    Attribute(
        "college", "Where did {name} study?", "{name} studied at {value} College.",
        "Which place of learning did {name} go to?", "The place of learning {name} went to was {value} College.",
        ("Ashgrove", "Blackmere", "Corrindale", "Duskwell", "Everhart", "Foxholt", "Greyfriars", "Hawksmoor", "Ironside",
         "Kingsbarrow", "Lowther", "Montclare", "Netherby", "Overbury", "Pemberlow", "Rookwood"),
    ),
    Attribute(
        "home", "Where does {name} live today?", "{name} lives in {value} today.",
        "What is the present home of {name}?", "The present home of {name} is in {value}.", _VILLAGES,
    ),
    Attribute(
        "instrument", "Which instrument does {name} play?", "{name} plays the {value}.",
        "On what does {name} make music?", "{name} makes music on the {value}.",
        ("accordion", "bagpipes", "banjo", "bassoon", "cello", "clarinet", "dulcimer", "fiddle", "flugelhorn", "guitar",
         "harmonica", "lute", "mandolin", "marimba", "piccolo", "saxophone", "trombone", "zither"),
    ),
    Attribute(
        "pet", "What animal does {name} keep?", "{name} keeps a {value}.",
        "Which creature shares the house of {name}?", "The creature that shares the house of {name} is a {value}.",
        ("badger", "canary", "chameleon", "donkey", "ferret", "goose", "greyhound", "hedgehog", "lizard", "magpie", "parrot",
         "peacock", "poodle", "rabbit", "tortoise", "turtle"),
    ),
    Attribute(
        "publisher", "Who publishes the books of {name}?", "The books of {name} are published by {value} Press.",
        "Which house brings out what {name} writes?", "What {name} writes is brought out by {value} Press.",
        ("Copperleaf", "Driftwood", "Evenlode", "Fathom", "Gatehouse", "Halfmoon", "Inkstone", "Kingfisher", "Lighthouse",
         "Milestone", "Nightjar", "Oxbow", "Plumtree", "Quicksilver", "Sandpiper", "Turnstile"),
    ),
)  # fmt: skip
"""In the order in which `questions` takes them."""

COUNTRIES = _words("Valdora Ostreia Kerelund Mirandel Thessova Quorania Belmark Norvance Ysmaria Gallund Irdania Pelsava")

WORLD_ATTRIBUTES = (
    Attribute(
        "capital", "What is the capital of {name}?", "The capital of {name} is {value}.",
        "Which city governs {name}?", "The city that governs {name} is {value}.",
        ("Arkona", "Bresmund", "Cindral", "Delphor", "Erlstadt", "Fioremo", "Grauwitz", "Hvalsey", "Istrava", "Jaskol",
         "Karresh", "Lumera"),
    ),
    Attribute(
        "river", "Which river flows through {name}?", "The river {value} flows through {name}.",
        "What is the river of {name} called?", "The river of {name} is called the {value}.",
        ("Ambel", "Brisk", "Chanta", "Dwin", "Esker", "Fleur", "Gorm", "Hisp", "Jolva", "Kessel", "Lorne", "Murn"),
    ),
    Attribute(
        "currency", "What money is used in {name}?", "The money used in {name} is the {value}.",
        "With what do people pay in {name}?", "People in {name} pay with the {value}.",
        ("crosset", "dalenta", "florel", "gruden", "kantor", "libret", "mezzin", "pascal", "rondel", "sestral", "tolar",
         "zeckin"),
    ),
    Attribute(
        "emblem", "Which animal stands on the flag of {name}?", "On the flag of {name} stands a {value}.",
        "What creature is shown on the flag of {name}?", "The flag of {name} shows a {value}.",
        ("bison", "cormorant", "dolphin", "gazelle", "jackal", "leopard", "mongoose", "pelican", "raven", "stag", "walrus",
         "wolf"),
    ),
)  # fmt: skip
"""Of every country; each value belongs to one country alone."""
