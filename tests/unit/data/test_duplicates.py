"""Duplicates of forget rows in the retain set, compared with a direct computation over all pairs."""

import itertools
import random
import time

import pytest

from expunge.data.duplicates import find_overlap
from expunge.data.sets import Row, RowSet

NINETEEN = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen w x y"


def rows(name, *texts):
    pairs = [text if isinstance(text, tuple) else ("", text) for text in texts]
    return RowSet(name, tuple(Row(f"{name}/{i}", q, a, f"{name}/{i}") for i, (q, a) in enumerate(pairs)))


def near(forget, retain, threshold=0.8):
    return find_overlap(rows("forget", forget), rows("retain", retain), threshold).num_near


def test_exact_duplicate_despite_case_punctuation_and_spaces():
    forget = rows("forget", ("Who is Ann?", "Ann is a baker."), ("Who is Bo?", "Bo bakes."))
    retain = rows("retain", ("Who is Cy?", "Cy sings."), ("who  is ANN", "\u201cAnn\u201d is a baker!"))
    overlap = find_overlap(forget, retain)
    assert (overlap.num_exact, overlap.num_near) == (1, 0)
    assert overlap.examples == [
        {
            "forget_id": "forget/0",
            "retain_id": "retain/1",
            "jaccard": 1.0,
            "forget_text": "Who is Ann? Ann is a baker.",
            "retain_text": "who  is ANN \u201cAnn\u201d is a baker!",
        }
    ]
    assert "0.8" in overlap.how


def test_jaccard_of_one_changed_word():
    """n words have n - 1 pairs. One changed inner word changes two pairs of each row: (n - 3) / (n + 1).

    n = 20 gives 17 / 21 = 0.8095 and n = 19 gives 16 / 20 = 0.8, both near duplicates at a threshold of 0.8;
    n = 18 gives 15 / 19 = 0.789, which is none.
    """
    for extra, expected in (("z", 1), ("", 1)):
        text = f"{NINETEEN} {extra}".strip()
        assert near(text, text.replace("seven", "other")) == expected
    shorter = NINETEEN.removeprefix("one ")
    assert near(shorter, shorter.replace("seven", "other")) == 0
    overlap = find_overlap(rows("f", NINETEEN), rows("r", NINETEEN.replace("seven", "other")))
    assert overlap.examples[0]["jaccard"] == 0.8


def test_question_and_answer_are_compared_together():
    assert near(("Who is the baker of the old town by the lake?", "Ann."), ("Who?", "Ann.")) == 0


def test_short_rows_and_rows_without_words():
    assert near("Yes", "No") == 0
    assert find_overlap(rows("f", "Yes"), rows("r", "yes!")).num_exact == 1
    assert find_overlap(rows("f", "???", "!!!"), rows("r", "???")).num_exact == 1


def test_text_without_spaces_is_compared_by_character():
    """One of twenty characters changed: 17 / 21, as for words."""
    text = "".join(chr(0x3041 + i) for i in range(20))
    assert near(text, text.replace(chr(0x3049), chr(0x6F22))) == 1


def test_equals_direct_computation():
    """Random texts over few words, compared at several thresholds with the definition applied to all pairs."""
    rng = random.Random(5)

    def text():
        return " ".join(rng.choice("abcd") for _ in range(rng.randint(1, 9)))

    forget = rows("forget", *{text() for _ in range(60)})
    retain = rows("retain", *{text() for _ in range(60)})

    def pairs(row):
        words = row.answer.split()
        return set(itertools.pairwise(words)) or {tuple(words)}

    for threshold in (0.3, 0.5, 0.7, 0.8, 1.0):
        expected = 0
        retain_texts = {row.answer for row in retain}
        for row in forget:
            if row.answer not in retain_texts:
                a = pairs(row)
                expected += any(len(a & b) / len(a | b) >= threshold for b in map(pairs, retain))
        assert find_overlap(forget, retain, threshold).num_near == expected
        assert threshold > 0.5 or expected > 0


def test_at_most_twenty_examples_exact_ones_first():
    texts = [f"{NINETEEN} number {i}" for i in range(30)]
    forget = rows("forget", *[text.replace("seven", "other") for text in texts], texts[4])
    overlap = find_overlap(forget, rows("retain", *texts))
    assert (overlap.num_exact, overlap.num_near, len(overlap.examples)) == (1, 30, 20)
    assert overlap.examples[0]["forget_id"] == "forget/30"


def test_time_is_not_quadratic():
    """1000 x 30,000 rows with the same wording about different people take a few seconds."""
    template = "Where was the well known person {0} born and raised? The person {0} was born and raised in {1}."
    texts = [template.format(f"Name{i} Family{i % 997}", f"City{i % 64}") for i in range(31_000)]
    forget, retain = rows("forget", *texts[:1000]), rows("retain", *texts[1000:])
    start = time.perf_counter()
    assert find_overlap(forget, retain).num_near == 0
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("threshold", [0, -1, 1.5])
def test_threshold_out_of_range_raises(threshold):
    with pytest.raises(ValueError, match="threshold"):
        find_overlap(rows("f", "a"), rows("r", "b"), threshold)


def test_words_of_other_scripts():
    """Changed vowel signs are other words; text without spaces is compared by character."""
    hindi = "उनका जन्म दिल्ली शहर में हुआ था और उन्होंने बचपन से कविता गीत नाटक लेख पत्र कथा उपन्यास यात्रा संस्मरण लिखा"
    assert near(hindi, hindi.replace("दिल्ली", "जयपुर")) == 1
    assert find_overlap(rows("f", "मेरा नाम"), rows("r", "मेरी नाम")).num_exact == 0
    thai = "เธอเกิดที่กรุงเทพมหานครและเขียนหนังสือมากมาย"
    assert near(thai, thai.replace("มากมาย", "มากมิย")) == 1
    assert near(thai, "เขาเป็นแพทย์ที่โรงพยาบาลเชียงใหม่ในภาคเหนือ") == 0
