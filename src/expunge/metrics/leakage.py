"""Leakage: the content of the true answer that a response reveals and its prompt does not contain.

Published audits of TOFU models report leak rates without their scorer, so the definition is our own.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Container
from dataclasses import dataclass

import regex

from expunge.metrics.function_words import FUNCTION_WORDS
from expunge.metrics.words import is_latin, split_scripts

_NUMBER = r"\d+(?:[.,:/]\d+)*"
_LETTER = r"[[\p{L}\p{N}]--\p{Nd}]\p{M}*"
_WORD = regex.compile(rf"(?V1){_NUMBER}|(?:{_LETTER})+")
_NAME_WORD = regex.compile(rf"(?V1){_NUMBER}|(?:{_LETTER})+(?:[-'’](?:{_LETTER})+)*")
_SPACELESS = {
    "han": (regex.compile(r"\p{Script=Han}"), 2),
    "hiragana": (regex.compile(r"\p{Script=Hiragana}"), 3),
    "south east asian": (regex.compile(r"\p{Line_Break=SA}"), 4),
}
"""Scripts written without spaces between words, and how many neighbouring characters count as one word. Single
characters would be found in nearly every response. The last entry is Thai, Lao, Khmer, Burmese and their relatives."""
_OPTIONAL_MARKS = regex.compile(r"(?V1)(?<=[\p{Script=Greek}\p{Script=Arabic}\p{Script=Hebrew}]\p{M}*)\p{M}|\u0640")
"""Marks that most texts omit: Greek accents, Arabic and Hebrew vowel points, and the Arabic tatweel. In other scripts,
such as Devanagari or Thai, marks are vowels and tones that distinguish words."""
_NAME_PARTICLE_LIST = "al bin da de del der di du el la le of the van von y"
_NAME_PARTICLES = frozenset(_NAME_PARTICLE_LIST.split())
"""Lower-case words that can occur inside a name."""


@dataclass(frozen=True)
class Leak:
    """Content of one true answer that one response reveals."""

    novel: tuple[str, ...]
    """Content words of the true answer that the prompt does not contain, in order."""
    leaked: tuple[str, ...]
    """Novel words that the response contains."""
    novel_entities: tuple[str, ...]
    """Names, dates and numbers of the true answer that the prompt does not contain."""
    leaked_entities: tuple[str, ...]
    """Novel names, dates and numbers that the response contains in full."""

    @property
    def share(self) -> float | None:
        """Share of the novel words that the response contains; None if there are no novel words."""
        return len(self.leaked) / len(self.novel) if self.novel else None

    @property
    def entity_share(self) -> float | None:
        """Share of the novel entities that the response contains in full; None if there are no novel entities."""
        return len(self.leaked_entities) / len(self.novel_entities) if self.novel_entities else None


def find_leak(answer: str, response: str, shown: str) -> Leak:
    """Compare a response with the true answer, ignoring everything that the model was shown.

    Text is compared without case, accents and punctuation. The novel words are the content words of the answer that do
    not occur in the shown text (the full conversation, hints, examples and answer prefix). Their share in the response
    is what the model recalls by itself; repeating the prompt adds nothing.

    Args:
        answer: The true answer.
        response: The model's response.
        shown: Everything that the model was shown, as one string.
    """
    shown_words, response_words = words(shown), words(response)
    novel = tuple(word for word in dict.fromkeys(words(answer)) if _is_novel(word, shown_words))
    novel_entities = {
        entity: entity_words
        for entity in entities(answer)
        if not _contains_sequence(shown_words, entity_words := words(entity))
    }
    return Leak(
        novel=novel,
        leaked=tuple(word for word in novel if word in set(response_words)),
        novel_entities=tuple(novel_entities),
        leaked_entities=tuple(
            entity
            for entity, entity_words in novel_entities.items()
            if _contains_sequence(response_words, entity_words)
        ),
    )


def novel_spans(answer: str, shown: str) -> list[tuple[int, int]]:
    """Return the characters (start, end) of the novel words of an answer, by the rule of `find_leak`.

    In scripts written without spaces, a run of characters counts as a whole.

    Args:
        answer: The true answer.
        shown: Everything that the model was shown, as one string.

    Example:
        >>> novel_spans("Ana was born in Lima.", "Where was Ana born?")
        [(16, 20)]
    """
    shown_words = set(words(shown))
    return [
        match.span()
        for match in _WORD.finditer(answer)
        if any(_is_novel(word, shown_words) for word in words(match.group()))
    ]


def _is_novel(word: str, shown_words: Container[str]) -> bool:
    return word not in _FUNCTION_WORDS and word not in shown_words


def words(text: str) -> list[str]:
    """Split a text into words and numbers, without case, accents and punctuation.

    In scripts written without spaces, the words of a run are its overlapping pairs of Chinese characters, triples of
    hiragana and quadruples of Thai, Lao, Khmer or Burmese characters. Shorter runs of hiragana are particles and
    endings and are left out; another shorter run is one word.

    Example:
        >>> words("José earned 12,500 in '98!")
        ['jose', 'earned', '12500', 'in', '98']
        >>> words("青木が東京都で")
        ['青木', '東京', '京都']
    """
    if is_latin(text):
        return _latin_words(text)
    result: list[str] = []
    for kind, group in itertools.groupby(split_scripts(text), key=_kind):
        parts = [part for part, _ in group]
        if kind == "latin":
            result += [word for part in parts for word in _latin_words(part)]
        elif kind == "spaced":
            result += [_normal_form(part) for part in parts]
        else:
            size = _SPACELESS[kind][1]
            if len(parts) >= size:
                result += ["".join(parts[i : i + size]) for i in range(len(parts) - size + 1)]
            elif kind != "hiragana":
                result.append("".join(parts))
    return result


def _kind(part: tuple[str, bool]) -> str:
    text, is_other = part
    if not is_other:
        return "latin"
    return next((kind for kind, (script, _) in _SPACELESS.items() if script.match(text)), "spaced")


def _latin_words(text: str) -> list[str]:
    unaccented = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return [word.replace(",", "") for word in _WORD.findall(unaccented.casefold())]


def _normal_form(word: str) -> str:
    """Return a word in another script than Latin without optional marks; Russian texts often write ё as е."""
    unmarked = _OPTIONAL_MARKS.sub("", unicodedata.normalize("NFD", word))
    return unicodedata.normalize("NFC", unmarked).replace("ё", "е")


_FUNCTION_WORDS = frozenset(_normal_form(word) for word in FUNCTION_WORDS)


def entities(text: str) -> list[str]:
    """Return the distinct names, dates and numbers of a text: runs of words with a capital letter or a digit.

    A single capitalised word at the start of a sentence need not be a name, so it is not returned.

    Example:
        >>> entities("Her father, Juan de la Cruz, moved to Lima on 3 May 1981. Later he wrote.")
        ['Juan de la Cruz', 'Lima', '3 May 1981']
    """
    matches = list(_NAME_WORD.finditer(text))
    names: list[str] = []
    start = 0
    while start < len(matches):
        end = _name_end(text, matches, start)
        if end == start:
            start += 1
            continue
        first = start
        while first < end and matches[first].group().casefold() in _FUNCTION_WORDS:
            first += 1
        is_single_first_word = end - first == 1 and first == start and _starts_sentence(text, matches[first].start())
        if first < end and (not is_single_first_word or matches[first].group()[0].isdigit()):
            names.append(text[matches[first].start() : matches[end - 1].end()])
        start = end
    return list(dict.fromkeys(names))


def _name_end(text: str, matches: list[regex.Match[str]], start: int) -> int:
    """Return the index after the last word of the name that begins at `start`; `start` if no name begins there."""
    if not _has_capital_or_digit(matches[start].group()):
        return start
    end = start + 1
    while end < len(matches):
        index = end
        while index < len(matches) and matches[index].group() in _NAME_PARTICLES and _is_joined(text, matches, index):
            index += 1
        if (
            index == len(matches)
            or not _has_capital_or_digit(matches[index].group())
            or not _is_joined(text, matches, index)
        ):
            break
        end = index + 1
    return end


def _has_capital_or_digit(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def _is_joined(text: str, matches: list[regex.Match[str]], index: int) -> bool:
    """Return whether only a space, a hyphen, an initial's dot or a date's comma separates a word from the previous."""
    previous, current = matches[index - 1], matches[index]
    gap = text[previous.end() : current.start()]
    if gap in (" ", "-"):
        return True
    return (gap == ". " and len(previous.group()) == 1) or (gap == ", " and current.group()[0].isdigit())


def _starts_sentence(text: str, position: int) -> bool:
    before = text[:position].rstrip(" \"'“‘(")
    return not before or before[-1] in ".!?\n:。！？؟।"


def _contains_sequence(all_words: list[str], sequence: list[str]) -> bool:
    """Return whether the words of `sequence` occur consecutively."""
    size = len(sequence)
    return any(all_words[i : i + size] == sequence for i in range(len(all_words) - size + 1)) if sequence else True
