"""Vocabulary of the synthetic world: invented names and places, and the possible values of facts.

Everything here is invented; any likeness to a living person or a real place is coincidental. The lists are part of the
data: a change to any of them changes the data of every seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def pick(rng: Random, options: Sequence[T]) -> T:
    """Return one option; uses only `random()`, the one method whose sequence Python guarantees across versions."""
    return options[int(rng.random() * len(options))]


def pick_distinct(rng: Random, options: Sequence[str], exclude: str, num: int) -> tuple[str, ...]:
    """Return `num` different options, none of them equal to `exclude`."""
    picked: list[str] = []
    while len(picked) < num:
        option = pick(rng, options)
        if option != exclude and option not in picked:
            picked.append(option)
    return tuple(picked)


def _words(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


def _product(first: str, second: str, pattern: str = "{}{}") -> tuple[str, ...]:
    return tuple(pattern.format(a, b) for a in first.split() for b in second.split())


# Each first part has one group of vowels and ends in a consonant, and each second part starts with a vowel. A name
# can therefore be split in one way only, so no two combinations give the same name.
GIVEN_NAMES = _product(
    "Al Ban Bel Bor Cal Cor Dal Dor El Fal Fen Fin Gal Gar Hal Hel Il Jan Jar Jor Kal Kel Kor Lan Lem "
    "Lor Mal Mar Mil Mir Nad Nal Nel Nor Ol Or Pal Per Pol Ral Ren Ros Sal Sel Sim Sol Tal Tam Tem Tor "
    "Ul Val Ver Vil Wal Wil Yal Yan Zal Zor",
    "a an ara as ea el ena eo er eth i ia ian ic ila in ina io is ita o ol ona ora us",
)
FAMILY_NAMES = _product(
    "Abr Ack And Bald Barr Bend Birk Bord Brand Brost Card Cast Chard Crest Dahl Dorm Drax Eck Falk "
    "Fand Ferr Galt Gand Garr Grond Hald Harv Holm Horv Jask Kast Kest Kord Krall Land Lind Lund Mand "
    "Mell Mord Narv Nord Ost Pask Pell Pret Quill Rand Renn Rost Sand Sarn Stall Tarn Thorn Trev Vand "
    "Vost Wend Yarr",
    "an ane arek aro ath ed ek elin ell en eno ero ett eva ic iel ino ison ov ova ovic ow uk um unda",
)
FAMOUS_FAMILY_NAMES = _product("Ash Black Green High Long Red Stone White", "bridge croft field gate wood")

CITIES_OF = {
    "Velmark": "Karsk Ostrel Tolm Brenning",
    "Surania": "Palima Mevora Sadeen Quorra",
    "Drovia": "Gradno Lesk Zavod Pernov",
    "Holmland": "Tarnby Ulvik Strand Fjell",
    "Castoria": "Belcastro Monteluna Alvedo Riberos",
    "Ishara": "Kemat Naruda Oshka Zabri",
    "Lorraway": "Wexcombe Thornby Millhaven Dunmere",
    "Tamboria": "Lokoto Mbatu Sankori Wande",
    "Nipora": "Hanami Kiseki Tsuru Morika",
    "Arvenne": "Belrive Clairval Sorgues Vauzelle",
    "Pelagos": "Thasia Myros Kalyra Xanthe",
    "Qandar": "Farouz Jaziran Mirhal Sabkha",
    "Yukara": "Inuvia Nootan Tikan Chenuk",
    "Zemlya": "Orlovo Volgan Snezh Tundrik",
    "Marisco": "Coralina Punta Palmera Arenal",
    "Brynmoor": "Caerwen Llanby Penrhyd Glyndale",
}
COUNTRIES = tuple(CITIES_OF)
COUNTRY_OF = {city: country for country, cities in CITIES_OF.items() for city in cities.split()}
CITIES = tuple(COUNTRY_OF)

MONTHS = _words("January February March April May June July August September October November December")
PROFESSIONS = _words(
    "baker carpenter surgeon painter sailor teacher plumber farmer judge chemist florist tailor barber "
    "miner butcher dentist librarian mechanic gardener potter photographer journalist nurse pilot "
    "banker weaver beekeeper jeweller blacksmith cook shepherd translator sculptor geologist postman "
    "firefighter fisherman clockmaker printer soldier brewer cobbler glazier porter singer dancer "
    "roofer lawyer"
)
SUBJECTS = _words(
    "astronomy botany history law medicine music philosophy physics poetry zoology geology chemistry "
    "drama economics geography grammar logic mathematics painting sculpture theology architecture "
    "archaeology agriculture forestry navigation optics rhetoric statistics surgery politics weaving"
)
ADJECTIVES = _words(
    "Amber Ancient Bitter Blue Broken Burning Copper Crimson Crooked Distant Empty Endless Fallen "
    "Frozen Gentle Glass Golden Grey Hidden Hollow Iron Ivory Lonely Lost Marble Midnight Narrow "
    "Northern Paper Patient Quiet Restless Rusted Scarlet Secret Silent Silver Sleeping Slow Southern "
    "Stolen Sudden Sunken Velvet Wandering White Wild Wooden"
)
NOUNS = _words(
    "Anchor Apple Bell Bird Boat Bridge Candle Castle Clock Cloud Comet Crown Desert Door Drum Echo "
    "Feather Field Fire Forest Garden Ghost Harbor Hill Island Key Ladder Lake Lamp Lantern Letter Map "
    "Mirror Moon Mountain Ocean Orchard River Road Rose Shadow Ship Snow Star Stone Storm Tower Window"
)
EMPLOYERS = _product(
    "Halcyon Meridian Northgate Oakfield Pinnacle Quayside Riverside Summit",
    "Archive Bank Clinic Museum Observatory Press School Theatre",
    "the {} {}",
)
AWARDS = _product(
    "Bronze Diamond Emerald Golden Jade Pearl Ruby Silver",
    "Eagle Falcon Heron Lion Otter Raven Stag Swan",
    "the {} {} Prize",
)
HOBBIES = _words(
    "archery baking bowling boxing camping chess climbing cycling dancing diving drawing embroidery "
    "falconry fencing fishing gardening golf hiking juggling karate kayaking knitting origami painting "
    "photography pottery puzzles quilting riding rowing running sailing sewing singing skating skiing "
    "stargazing surfing swimming tennis"
)
LANGUAGES = _words(
    "Arvennish Brynic Castorian Drovian Holmish Isharan Lorrish Mariscan Nipori Pelagian Qandari "
    "Suranian Tambori Velmish Yukaran Zemlian Old-Elvic High-Sorric Tessari Umbric Vornic Wendish Xeric "
    "Zhanti"
)
INSTRUMENTS = _words(
    "accordion bagpipes banjo bassoon bugle cello clarinet cymbals drums dulcimer fiddle flute guitar "
    "harmonica harp horn lute lyre mandolin marimba oboe organ piano piccolo recorder saxophone sitar "
    "tambourine trombone trumpet tuba viola violin xylophone zither"
)
ANIMALS = _words(
    "cat dog parrot rabbit tortoise goat pony ferret hamster canary goose lizard donkey hedgehog pigeon duck"
)
PET_NAMES = _words(
    "Biscuit Button Cinder Clover Cookie Dusty Ginger Hazel Honey Jasper Marble Mango Misty Muffin "
    "Nutmeg Olive Pepper Pickle Pixie Poppy Pumpkin Rusty Shadow Toffee"
)
DISHES = _words(
    "apple pie,barley soup,bean stew,beef curry,cheese tart,cherry cake,chicken broth,corn bread,"
    "fish stew,fried rice,garlic noodles,ginger cake,grilled trout,honey toast,lamb roast,leek soup,"
    "lemon tart,lentil curry,mushroom pie,onion soup,oyster stew,pea soup,plum cake,potato salad,"
    "pumpkin soup,roast duck,rice pudding,salmon pie,spiced beans,stuffed peppers,tomato salad,"
    "walnut bread",
    ",",
)
RIVERS = _words(
    "Alder Brell Cawdor Dessa Ermine Fenwick Gilda Hesper Islen Jura Kelda Lathe Mossel Nerro Orrin Peverel"
)
MOUNTAINS = tuple(f"Mount {name}" for name in _words("Abbas Borga Corin Drumm Ebon Falk Grava Horn Idris Jovan"))
COINS = _words("crona denar florin grosh kopper lira marka pesa real shill taler zlot")
FLOWERS = _words("aster bluebell daisy iris jasmine lily lotus orchid peony poppy tulip violet")
VALUES: dict[str, tuple[str, ...]] = {
    "birth_city": CITIES,
    "birth_country": COUNTRIES,
    "birth_year": tuple(str(year) for year in range(1920, 2000)),
    "birthday": _product(" ".join(str(day) for day in range(1, 29)), " ".join(MONTHS), "{} {}"),
    "profession": PROFESSIONS,
    "father": PROFESSIONS,
    "mother": PROFESSIONS,
    "subject": SUBJECTS,
    "university": CITIES,
    "employer": EMPLOYERS,
    "second_book": tuple(f"{a} and {b}" for a in NOUNS for b in NOUNS if a != b),
    "award": AWARDS,
    "hobby": HOBBIES,
    "language": LANGUAGES,
    "home": CITIES,
    "instrument": INSTRUMENTS,
    "pet": _product(" ".join(ANIMALS), " ".join(PET_NAMES), "{} called {}"),
    "dish": DISHES,
}
"""Possible values of each fact; first books and authors are composed from several lists."""
