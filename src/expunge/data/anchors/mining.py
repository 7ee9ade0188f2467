"""Builds an anchor dictionary from the texts alone: what the forget text names often and other text hardly ever.

A substitute for the strong model of the paper, and ours: expressions are names (runs of words that are usually
capitalised in mid-sentence) and words that are many times as frequent as in general text; their kind is guessed
from the words around them. It knows nothing of idioms, and a guess can be wrong; read the file that it writes.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import yaml

from expunge.data.anchors.dictionary import Anchors, clean_up
from expunge.errors import DataError

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_ENDS = frozenset(".!?:;\"“”'‘’()*_-—")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SPEECH = _set(
    "said says asked answered replied cried exclaimed shouted thought laughed nodded remarked declared "
    "returned whispered inquired enquired looked turned smiled sighed knew felt wanted began"
)
_TITLES = {
    **dict.fromkeys(_set("mr sir lord uncle king prince father"), "man"),
    **dict.fromkeys(_set("mrs miss lady aunt queen princess mother madam"), "woman"),
    **dict.fromkeys(_set("dr doctor professor captain general cousin"), "person"),
}
_TO_PLACE = _set("in at to from into near through toward towards reach reached visit visited")
_LANDS = _set("land city country kingdom island state people ruler town")
_ARTICLES = _set("the a an")
_DETERMINERS = _ARTICLES | _set("his her its their my your our this that these those")
_AFTER_NOUN = _set("and or of in on at to is was were had that which who with as for from by into but")
_HE, _SHE = _set("he his him himself"), _set("she her hers herself")
_PRONOUN_REACH = 12


@dataclass
class _Seen:
    """What was noticed about one expression."""

    count: int = 0
    article: int = 0
    noun: int = 0
    speech: int = 0
    place: int = 0
    he: int = 0
    she: int = 0
    titles: Counter[str] = field(default_factory=Counter)


def mine_anchors(
    forget: Iterable[str],
    general: Iterable[str],
    *,
    num: int = 1500,
    min_count: int = 4,
    ratio: float = 8.0,
    stand_ins: int = 4,
    rare_words: bool = True,
) -> Anchors:
    """Anchors of the forget texts, by comparing how often expressions occur in general texts.

    An expression is kept if it occurs at least `min_count` times and rate(forget) >= ratio * rate(general), rates
    per word with one occurrence added to the general count. Equal texts give equal anchors.

    Args:
        forget: Texts to be forgotten.
        general: Other text of the same kind of language, such as the retain set.
        num: Keep at most this many, those with the most occurrences.
        min_count: Fewest occurrences.
        ratio: How many times as frequent as in general text.
        stand_ins: Stand-ins per expression.
        rare_words: Also ordinary words, with twice the count and ratio.

    Raises:
        DataError: There is no general text, or no expression qualifies.
    """
    texts = [_words(text) for text in forget]
    others = Counter(word.lower() for text in general for word in _words(text))
    total, total_others = sum(map(len, texts)), sum(others.values())
    if not total_others:
        raise DataError(
            "anchors from the corpus need other text to compare with, and there is no retain set.",
            fix="Add data.retain, or give anchors as a file.",
        )

    def distinct(words: str, count: int, factor: float) -> bool:
        elsewhere = min(others[word] for word in words.lower().split())
        wanted = min_count * (2 if factor > ratio else 1)
        return count >= wanted and count / total >= factor * (elsewhere + 1) / total_others

    names = _names(texts)
    chosen = {name: seen for name, seen in names.items() if distinct(name, seen.count, ratio)}
    if rare_words:
        known = {part for name in names for part in name.split()}
        chosen |= {
            word: seen for word, seen in _ordinary(texts, known).items() if distinct(word, seen.count, 2 * ratio)
        }
    if not chosen:
        raise DataError(
            f"no expression of the forget text is {ratio:g} times as frequent as in the retain text.",
            fix="Lower anchors.ratio or anchors.min_count, or give anchors as a file.",
        )
    ranked = sorted(chosen, key=lambda name: (-chosen[name].count, name))[:num]
    return clean_up({name: _pick(name, _kind(name, chosen[name]), stand_ins) for name in ranked})


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _opens(words: list[str], place: int) -> bool:
    """Whether a word may be capitalised only because a sentence or speech starts with it."""
    return place == 0 or words[place - 1] in _ENDS


def _is_capital(word: str) -> bool:
    return word[0].isupper() and not word.isupper()


def _base(word: str) -> str:
    """A word without its possessive ending."""
    return re.sub(r"['’]s?$", "", word)


def _names(texts: list[list[str]]) -> dict[str, _Seen]:
    """Longest runs of proper words, such as 'Aunt Em' or 'Emerald City', with what surrounds them."""
    proper = _proper_words(texts)
    names: dict[str, _Seen] = {}
    for words in texts:
        for start, end in _runs(words, proper):
            name = " ".join([*words[start : end - 1], _base(words[end - 1])])
            _notice(names.setdefault(name, _Seen()), words, start, end)
    return names


def _proper_words(texts: list[list[str]]) -> set[str]:
    """Words that are capitalised in at least two thirds of the places that do not open a sentence."""
    capital, small = Counter[str](), Counter[str]()
    for words in texts:
        for place, word in enumerate(words):
            if word[0].isalpha() and not _opens(words, place):
                base = _base(word)
                (capital if _is_capital(base) else small)[base.lower()] += 1
    return {word for word, count in capital.items() if count >= 2 and count >= 2 * small[word] and len(word) > 1}


def _runs(words: list[str], proper: set[str]) -> Iterator[tuple[int, int]]:
    start: int | None = None
    for place, word in enumerate([*words, "."]):
        inside = _is_capital(word) and _base(word).lower() in proper
        if start is not None and (not inside or _base(words[place - 1]) != words[place - 1]):
            yield start, place
            start = None
        if inside and start is None:
            start = place


def _ordinary(texts: list[list[str]], known: set[str]) -> dict[str, _Seen]:
    """Words in small letters that are part of no name and stand where nouns do."""
    found: dict[str, _Seen] = {}
    taken = {word.lower() for word in known}
    for words in texts:
        for place, word in enumerate(words):
            if word.isalpha() and word.islower() and len(word) > 3 and word not in taken:
                _notice(found.setdefault(word, _Seen()), words, place, place + 1)
    return {word: seen for word, seen in found.items() if 3 * seen.noun >= seen.count}


def _notice(seen: _Seen, words: list[str], start: int, end: int) -> None:
    before = words[start - 1].lower() if start else ""
    after = words[end].lower() if end < len(words) else ""
    seen.count += 1
    seen.article += before in _ARTICLES
    seen.noun += before in _DETERMINERS and (after in _AFTER_NOUN or not after[:1].isalpha())
    seen.speech += before in _SPEECH or after in _SPEECH
    seen.place += before in _TO_PLACE or (before == "of" and start > 1 and words[start - 2].lower() in _LANDS)
    near = {word.lower() for word in words[end : end + _PRONOUN_REACH]}
    seen.he += bool(near & _HE)
    seen.she += bool(near & _SHE)
    for word in (before, words[start].lower()):
        if word in _TITLES:
            seen.titles[_TITLES[word]] += 1


def _kind(name: str, seen: _Seen) -> str:
    """List of stand-ins that fits best."""
    plural = name.endswith("s") and not name.endswith(("ss", "us"))
    if name.islower():
        alive = seen.speech * 10 >= seen.count
        return ("figure" if alive else "thing") + ("s" if plural else "")
    if " " in name and name.split()[-1].lower() in _LANDS:
        return "place"
    if 2 * seen.article >= seen.count:
        return "figures" if plural else "figure"
    if seen.titles:
        return seen.titles.most_common(1)[0][0]
    if seen.place > 2 * seen.speech and 6 * seen.place >= seen.count:
        return "place"
    if max(seen.he, seen.she) < 2 * min(seen.he, seen.she) + 1:
        return "person"
    return "woman" if seen.she > seen.he else "man"


def _pick(name: str, kind: str, num: int) -> list[str]:
    """Stand-ins of a kind; every name has its own order of the list, the same in every run."""
    options = [each for each in stand_in_lists()[kind] if each.casefold() != name.casefold()]
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(options))
    return [options[i] for i in order[:num]]


@functools.cache
def stand_in_lists() -> dict[str, list[str]]:
    """Our stand-ins by kind."""
    text = importlib.resources.files("expunge.data").joinpath("stand_ins.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
