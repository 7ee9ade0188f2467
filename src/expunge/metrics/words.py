"""Split text of any script into words.

Each metric splits Latin text by its own rule, so that published values stay exact. Every other script is split at the
word boundaries of Unicode Standard Annex 29: Arabic, Cyrillic, Devanagari or Hangul words are runs of letters with
their vowel signs; Chinese characters, hiragana and the letters of Thai, Lao, Khmer and Burmese, which are written
without spaces, are words of one character.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator

import regex

WORD_RULE = (
    "words outside the Latin script are those of Unicode Annex 29, which are single characters in Chinese, Japanese "
    "and Thai"
)
"""Statement of the rule for the description of a value."""

# Letters and numerals of the scripts Common and Inherited, such as the micro sign, occur in Latin text too.
_OTHER_SCRIPT = regex.compile(r"(?V1)[[\p{L}\p{N}]--[\p{Script=Latin}\p{Script=Common}\p{Script=Inherited}]]")
_OTHER_DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")
_LETTER_OR_NUMBER = regex.compile(r"[\p{L}\p{N}]")
_BOUNDARY = regex.compile(r"(?wV1)\b")


def has_words(text: str) -> bool:
    """Return whether a text has a letter or a number in any script."""
    return _LETTER_OR_NUMBER.search(text) is not None


def is_latin(text: str) -> bool:
    """Return whether all letters of a text are Latin and all its digits are 0 to 9."""
    return text.isascii() or not (_OTHER_SCRIPT.search(text) or _OTHER_DIGIT.search(text))


def split_scripts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words in scripts other than Latin, and the stretches of Latin text, digits and punctuation between.

    The text is normalized (NFKC, digits 0 to 9) first, and words are case-folded.

    Yields:
        The word or stretch, and whether it is a word in another script. Two such words in a row are adjacent in the
        text, without a space between them.

    Example:
        >>> list(split_scripts("Ана, 5 NASA"))
        [('ана', True), (', 5 NASA', False)]
    """
    normalized = unicodedata.normalize("NFKC", text)
    normalized = _OTHER_DIGIT.sub(lambda match: str(unicodedata.digit(match.group())), normalized)
    stretch = ""
    for segment in _BOUNDARY.split(normalized):
        if not _OTHER_SCRIPT.search(segment):
            stretch += segment
            continue
        if stretch:
            yield stretch, False
        yield segment.casefold(), True
        stretch = ""
    if stretch:
        yield stretch, False


def words(text: str, latin: Callable[[str], Iterable[str]]) -> list[str]:
    """Return the words of a text in order.

    Args:
        text: Text in any script.
        latin: Splits Latin text into words. Text without any other script is passed to it unchanged.

    Example:
        >>> words("NASA wrote: 東京へ!", str.split)
        ['NASA', 'wrote:', '東', '京', 'へ', '!']
    """
    if is_latin(text):
        return list(latin(text))
    return [word for part, is_other in split_scripts(text) for word in ([part] if is_other else latin(part))]
