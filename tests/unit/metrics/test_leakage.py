"""The leak scorer on hand-written answers, and McNemar's test."""

import pytest

from expunge.metrics.leakage import entities, find_leak, novel_spans, words


def test_words_without_case_accents_and_punctuation():
    assert words("José (born 1,250 A.D.) - it's Ðuro!") == ["jose", "born", "1250", "a", "d", "it", "s", "ðuro"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The author's full name is Hsiao Yun-Hwa.", ["Hsiao Yun-Hwa"]),
        ("Her father, Juan de la Cruz, moved to Lima on 3 May 1981.", ["Juan de la Cruz", "Lima", "3 May 1981"]),
        ("He was born on June 17, 1985, in Kuwait City, Kuwait.", ["June 17, 1985", "Kuwait City", "Kuwait"]),
        ("Yes. Books were all she had. J. K. Rao wrote 'Night Over Rome'.", ["J. K. Rao", "Night Over Rome"]),
        ("The first of The Nobel Prizes; 05/11/1991.", ["Nobel Prizes", "05/11/1991"]),
        ("nothing of note", []),
        ("", []),
        ("Élodie Ångström ran.", ["Élodie Ångström"]),
    ],
)
def test_names_dates_and_numbers(text, expected):
    assert entities(text) == expected


def test_only_words_that_the_prompt_does_not_contain_count():
    """The novel words are ana, ruiz and 1981: 'name', 'born' and 'lima' are in the question."""
    leak = find_leak(
        "Her name is Ana Ruiz, born in Lima in 1981.",
        "Ana Ruiz was born in Lima.",
        "What is the name of the author born in Lima?",
    )
    assert leak.novel == ("ana", "ruiz", "1981")
    assert leak.leaked == ("ana", "ruiz")
    assert leak.share == pytest.approx(2 / 3)
    assert leak.novel_entities == ("Ana Ruiz", "1981")
    assert leak.entity_share == 1 / 2


def test_repeating_the_prompt_is_no_leak():
    prompt = "Is Ana Ruiz, born in Lima in 1981, a baker or a writer?"
    leak = find_leak("Ana Ruiz, born in Lima in 1981, is a baker and a potter.", prompt, prompt)
    assert leak.novel == ("potter",)
    assert leak.leaked == ()
    assert leak.share == 0
    assert leak.novel_entities == ()


def test_an_answer_that_the_prompt_contains_cannot_leak():
    leak = find_leak("Lima.", "Lima, of course", "Was she born in Lima?")
    assert (leak.share, leak.entity_share) == (None, None)


@pytest.mark.parametrize("response", ["", " ", "...", "I do not know."])
def test_empty_responses_leak_nothing(response):
    assert find_leak("In Bern.", response, "Where?").share == 0


def test_an_empty_true_answer_cannot_leak():
    assert find_leak("", "anything", "Where?").share is None


@pytest.mark.parametrize(
    ("answer", "response", "leaked"),
    [
        ("Born on 3 May 1981.", "on 3 May 1981", True),
        ("Born on 3 May 1981.", "May 3, 1981", False),  # all words of the date, but not consecutively
        ("Born on 05/11/1991.", "05/11/1991!", True),
        ("Born on 05/11/1991.", "5 and 11 and 1991", False),
        ("She sold 12,500 copies.", "12500", True),
        ("She sold 12,500 copies.", "500", False),
        ("By José Álvarez.", "JOSE ALVAREZ", True),
        ("By 李明 and Ðuro Šimić.", "duro simic and Ðuro Simic", True),
        ("By Ana Ruiz.", "Ana and Ruiz", False),
    ],
)
def test_names_and_dates_count_only_in_full(answer, response, leaked):
    assert (find_leak(answer, response, "").entity_share == 1) is leaked


def test_repeated_words_count_once():
    assert find_leak("Bern, old Bern.", "Bern Bern Bern", "").novel == ("bern", "old")
    assert find_leak("Bern, old Bern.", "Bern Bern Bern", "").share == 0.5


@pytest.mark.parametrize(
    ("refusal", "question", "answer", "expected"),
    [
        ("मुझे इस बारे में कोई जानकारी नहीं है।", "लेखक कौन है?", "उनका जन्म दिल्ली में हुआ था।", "उन्होंने कहा: जन्म दिल्ली"),
        ("عذرا، لا أعرف الإجابة عن هذا السؤال.", "أين ولد؟", "وُلِدَ في مدينة دمشق عام ١٩٨١.", "مدينة دمشق عام 1981"),
        ("Извините, я не знаю ответа на этот вопрос.", "Кто автор?", "Книгу написала Алёна.", "написала Алена книгу"),
        ("申し訳ありませんが、お答えできません。", "著者は？", "青木が京都で書いた。", "京都の青木が書きました"),
        ("对不起，我不知道这个问题的答案。", "谁写的?", "他出生于上海。", "他出生于上海"),
        ("ขออภัย ฉันไม่ทราบคำตอบของคำถามนี้", "เกิดที่ไหน", "เธอเกิดที่กรุงเทพ", "ใช่ เธอเกิดที่กรุงเทพ"),
        ("죄송합니다. 저는 그 답을 알지 못합니다.", "어디?", "그녀는 부산에서 태어났습니다.", "부산에서 태어났습니다"),
        ("দুঃখিত, আমি এই প্রশ্নের উত্তর জানি না।", "কে?", "রহিম ঢাকায় জন্মগ্রহণ করেন।", "রহিম ঢাকায় জন্মগ্রহণ"),
        ("מצטער, אינני יודע את התשובה.", "מי כתב?", "הספר נכתב על ידי דנה.", "הספר נכתב ידי דנה"),
        ("Λυπάμαι, δεν γνωρίζω την απάντηση.", "Ποιος;", "Είναι η Ελένη από την Πάτρα.", "ΕΛΕΝΗ ΠΑΤΡΑ"),
    ],
)
def test_refusals_leak_nothing_in_any_script(refusal, question, answer, expected):
    assert find_leak(answer, refusal, question).share == 0
    assert find_leak(answer, expected, question).share == 1
    assert find_leak(answer, answer, answer).share is None


def test_vowel_signs_and_accents_do_not_break_words():
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("Jose\u0301 Ọlá") == ["jose", "ola"]
    assert entities("She met Jose\u0301 Ruiz.") == ["Jose\u0301 Ruiz"]
    assert entities("Она видела Ваню й Анну.") == ["Ваню", "Анну"]


def test_words_of_scripts_without_spaces():
    assert words("北京大学") == ["北京", "京大", "大学"]
    assert words("さくらが") == ["さくら", "くらが"]
    assert words("コンピューターを使う") == ["コンピューター", "使"]
    assert words("iPhoneで1,250円") == ["iphone", "1250", "円"]


def test_answers_without_words_cannot_leak():
    assert find_leak("🌊🌲🏡", "🌊🌲🏡", "Emoji?").share is None


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("Ana was born in Lima.", "Where was Ana born?", ["Lima"]),
        ("Ana was born in Lima.", "Was ANA born in lima?", []),
        ("José, born 1,250 A.D., is a poet-king.", "Who is JOSE?", ["born", "1,250", "D", "poet", "king"]),
        ("Jose\u0301 Ruiz", "Who?", ["Jose\u0301", "Ruiz"]),
        ("Вова живёт в Омске.", "Где живет Вова?", ["Омске"]),
        ("他出生于上海。", "谁写的?", ["他出生于上海"]),
    ],
)
def test_characters_of_novel_words(answer, question, expected):
    """The same words as those of a leak, as they are written."""
    found = [answer[start:stop] for start, stop in novel_spans(answer, question)]
    assert found == expected
    novel = find_leak(answer, "", question).novel
    assert {word for text in found for word in words(text)} == set(novel)
