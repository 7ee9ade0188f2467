"""Mine an anchor dictionary from texts: expressions that are frequent in the forget text and rare in other text.

This replaces the strong language model that the paper uses. Expressions are names (runs of words that are usually
capitalised in mid-sentence) and words that are many times as frequent as in general text. Their kind is guessed from
the surrounding words. Idioms are not found, and guesses can be wrong, so check the resulting file.
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

from expunge.data.anchors.dictionary import Anchors, drop_covered
from expunge.errors import DataError

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_SENTENCE_ENDS = frozenset(".!?:;\"“”'‘’()*_-—")


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SPEECH = _word_set(
    "said says asked answered replied cried exclaimed shouted thought laughed nodded remarked declared "
    "returned whispered inquired enquired looked turned smiled sighed knew felt wanted began"
)
_TITLES = {
    **dict.fromkeys(_word_set("mr sir lord uncle king prince father"), "man"),
    **dict.fromkeys(_word_set("mrs miss lady aunt queen princess mother madam"), "woman"),
    **dict.fromkeys(_word_set("dr doctor professor captain general cousin"), "person"),
}
_BEFORE_LOCATION = _word_set("in at to from into near through toward towards reach reached visit visited")
_LOCATION_NOUNS = _word_set("land city country kingdom island state people ruler town")
_ARTICLES = _word_set("the a an")
_DETERMINERS = _ARTICLES | _word_set("his her its their my your our this that these those")
_AFTER_NOUN = _word_set("and or of in on at to is was were had that which who with as for from by into but")
_HE, _SHE = _word_set("he his him himself"), _word_set("she her hers herself")
_PRONOUN_WINDOW = 12
"""Number of words after an expression that are searched for pronouns."""


@dataclass
class _Contexts:
    """Number of occurrences of an expression, in total and by context."""

    count: int = 0
    article: int = 0
    noun: int = 0
    speech: int = 0
    location: int = 0
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
    """Mine anchors of the forget texts by comparing the frequencies of expressions with those in general texts.

    An expression qualifies if it occurs at least `min_count` times and rate(forget) >= ratio * rate(general), where
    rates are per word and one occurrence is added to the general count. The result is deterministic.

    Args:
        forget: Texts to forget.
        general: Other texts in the same style, such as the retain set.
        num: Maximum number of anchors; the most frequent ones are selected.
        min_count: Minimum number of occurrences.
        ratio: Minimum ratio of the frequencies in forget and general text.
        stand_ins: Number of stand-ins per expression.
        rare_words: Whether to include ordinary words, which need twice the count and the ratio.

    Raises:
        DataError: There is no general text, or no expression qualifies.
    """
    texts = [_WORD.findall(text) for text in forget]
    general_counts = Counter(word.lower() for text in general for word in _WORD.findall(text))
    num_words, num_general_words = sum(map(len, texts)), sum(general_counts.values())
    if not num_general_words:
        raise DataError(
            "anchors from the corpus need other text to compare with, and there is no retain set.",
            fix="Add data.retain, or provide anchors as a file.",
        )

    def qualifies(expression: str, count: int, factor: int) -> bool:
        general_count = min(general_counts[word] for word in expression.lower().split())
        frequent = count / num_words >= factor * ratio * (general_count + 1) / num_general_words
        return count >= factor * min_count and frequent

    names = _collect_names(texts)
    contexts = {name: context for name, context in names.items() if qualifies(name, context.count, 1)}
    if rare_words:
        name_words = {word.lower() for name in names for word in name.split()}
        nouns = _collect_nouns(texts, name_words)
        contexts |= {word: context for word, context in nouns.items() if qualifies(word, context.count, 2)}
    if not contexts:
        raise DataError(
            f"no expression of the forget text is {ratio:g} times as frequent as in the retain text.",
            fix="Lower anchors.ratio or anchors.min_count, or provide anchors as a file.",
        )
    ranked = sorted(contexts, key=lambda name: (-contexts[name].count, name))[:num]
    return drop_covered(
        {name: _choose_stand_ins(name, _guess_kind(name, contexts[name]), stand_ins) for name in ranked}
    )


def _is_capitalised(word: str) -> bool:
    return word[0].isupper() and not word.isupper()


def _strip_possessive(word: str) -> str:
    return re.sub(r"['’]s?$", "", word)


def _collect_names(texts: list[list[str]]) -> dict[str, _Contexts]:
    """Return the longest runs of proper nouns, such as 'Aunt Em' or 'Emerald City', with their contexts."""
    proper_nouns = _proper_nouns(texts)
    names: dict[str, _Contexts] = {}
    for words in texts:
        for start, end in _name_spans(words, proper_nouns):
            name = " ".join([*words[start : end - 1], _strip_possessive(words[end - 1])])
            _add_context(names.setdefault(name, _Contexts()), words, start, end)
    return names


def _proper_nouns(texts: list[list[str]]) -> set[str]:
    """Return words that are capitalised in at least two thirds of their occurrences inside a sentence."""
    capitalised, lower_case = Counter[str](), Counter[str]()
    for words in texts:
        for index, word in enumerate(words):
            # The first word of a sentence or of direct speech is always capitalised, so its case is no evidence.
            if word[0].isalpha() and index > 0 and words[index - 1] not in _SENTENCE_ENDS:
                base = _strip_possessive(word)
                (capitalised if _is_capitalised(base) else lower_case)[base.lower()] += 1
    return {
        word for word, count in capitalised.items() if count >= 2 and count >= 2 * lower_case[word] and len(word) > 1
    }


def _name_spans(words: list[str], proper_nouns: set[str]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of proper nouns; a possessive ends a run."""
    start: int | None = None
    for index, word in enumerate([*words, "."]):
        proper = _is_capitalised(word) and _strip_possessive(word).lower() in proper_nouns
        if start is not None and (not proper or _strip_possessive(words[index - 1]) != words[index - 1]):
            yield start, index
            start = None
        if proper and start is None:
            start = index


def _collect_nouns(texts: list[list[str]], name_words: set[str]) -> dict[str, _Contexts]:
    """Return lower-case words outside names that are nouns in at least a third of their occurrences."""
    contexts: dict[str, _Contexts] = {}
    for words in texts:
        for index, word in enumerate(words):
            if word.isalpha() and word.islower() and len(word) > 3 and word not in name_words:
                _add_context(contexts.setdefault(word, _Contexts()), words, index, index + 1)
    return {word: context for word, context in contexts.items() if 3 * context.noun >= context.count}


def _add_context(contexts: _Contexts, words: list[str], start: int, end: int) -> None:
    """Add the context of the occurrence words[start:end] to the counts."""
    before = words[start - 1].lower() if start else ""
    after = words[end].lower() if end < len(words) else ""
    contexts.count += 1
    contexts.article += before in _ARTICLES
    contexts.noun += before in _DETERMINERS and (after in _AFTER_NOUN or not after[:1].isalpha())
    contexts.speech += before in _SPEECH or after in _SPEECH
    contexts.location += before in _BEFORE_LOCATION or (
        before == "of" and start > 1 and words[start - 2].lower() in _LOCATION_NOUNS
    )
    following = {word.lower() for word in words[end : end + _PRONOUN_WINDOW]}
    contexts.he += bool(following & _HE)
    contexts.she += bool(following & _SHE)
    for word in (before, words[start].lower()):
        if word in _TITLES:
            contexts.titles[_TITLES[word]] += 1


def _guess_kind(name: str, contexts: _Contexts) -> str:
    """Return the name of the list of stand-ins that fits best."""
    plural = name.endswith("s") and not name.endswith(("ss", "us"))
    if name.islower():
        alive = contexts.speech * 10 >= contexts.count
        return ("figure" if alive else "thing") + ("s" if plural else "")
    if " " in name and name.split()[-1].lower() in _LOCATION_NOUNS:
        return "place"
    if 2 * contexts.article >= contexts.count:
        return "figures" if plural else "figure"
    if contexts.titles:
        return contexts.titles.most_common(1)[0][0]
    if contexts.location > 2 * contexts.speech and 6 * contexts.location >= contexts.count:
        return "place"
    if max(contexts.he, contexts.she) < 2 * min(contexts.he, contexts.she) + 1:
        return "person"
    return "woman" if contexts.she > contexts.he else "man"


def _choose_stand_ins(name: str, kind: str, num: int) -> list[str]:
    """Return stand-ins of a kind in an order that depends on the name only, so that it is equal in every run."""
    options = [stand_in for stand_in in stand_in_lists()[kind] if stand_in.casefold() != name.casefold()]
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(options))
    return [options[i] for i in order[:num]]


@functools.cache
def stand_in_lists() -> dict[str, list[str]]:
    """Return the packaged stand-ins by kind."""
    text = importlib.resources.files("expunge.data").joinpath("stand_ins.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
