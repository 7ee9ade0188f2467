"""Anchor dictionaries: what is refused, what is cleaned up, where anchors are found, and mining them from text."""

import json

import pytest

from expunge.data.anchors.dictionary import Found, check_anchors, clean_up, find_anchors, merge, read_anchors
from expunge.data.anchors.mining import mine_anchors, stand_in_lists
from expunge.errors import DataError


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"Oz": ""}, "'Oz' has an empty stand-in"),
        ({"Oz": ["Milton", " "]}, "'Oz' has an empty stand-in"),
        ({"Oz": []}, "'Oz' has []"),
        ({"Oz": "oz"}, "'Oz' stands for itself"),
        ({"Oz": ["Milton", "Oz"]}, "'Oz' stands for itself"),
        ({"Oz": [3]}, "'Oz' has the stand-in 3"),
        ({"Oz": None}, "'Oz' has None"),
        ({"": "x"}, "'' is not a text"),
        ({" Oz": "x"}, "' Oz' has spaces"),
    ],
)
def test_bad_entries_are_refused_by_name(entry, words):
    with pytest.raises(DataError, match="a file: the anchor") as caught:
        check_anchors({"Dorothy": ["Clara"], **entry}, "a file")
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [[], {}, "Oz", None])
def test_something_else_than_a_dictionary_is_refused(value):
    with pytest.raises(DataError, match="holds no anchors"):
        check_anchors(value, "a file")


def test_one_stand_in_needs_no_list_and_repeated_ones_count_once():
    assert check_anchors({"Oz": "Milton", "Tip": ["Ned", "Ned", "Sam"]}, "x") == {
        "Oz": ["Milton"],
        "Tip": ["Ned", "Sam"],
    }


def test_clean_up_drops_what_other_keys_cover():
    """'Tin Woodman' is covered by 'Tin' and 'Woodman', "Oz's" by 'Oz'; 'Emerald City' is not, for 'City' is no key."""
    anchors = {key: ["x"] for key in ("Tin", "Woodman", "Tin Woodman", "Oz", "Oz's", "Ev’s", "Emerald", "Emerald City")}
    assert set(clean_up(anchors)) == {"Tin", "Woodman", "Oz", "Ev’s", "Emerald", "Emerald City"}


def test_merging_keeps_every_stand_in_once():
    assert merge([{"Oz": ["a", "b"]}, {"Oz": ["b", "c"], "Ev": ["d"]}]) == {"Oz": ["a", "b", "c"], "Ev": ["d"]}


def test_reading_a_file(tmp_path):
    place = tmp_path / "anchors.json"
    place.write_text(json.dumps({"Oz": ["Milton"]}))
    assert read_anchors(place) == {"Oz": ["Milton"]}
    place.write_text('{"Oz":\n ["Milton"')
    with pytest.raises(DataError, match=r"anchors\.json, line 2 is not valid JSON"):
        read_anchors(place)
    with pytest.raises(DataError, match="does not exist"):
        read_anchors(tmp_path / "absent.json")


def test_anchors_are_found_as_whole_words_the_longest_first():
    """'Ozma' is not 'Oz'; 'Oz's' holds 'Oz'; a line break counts as the space inside 'Emerald City'."""
    anchors = {"Oz": ["x"], "Emerald City": ["y"], "Emerald City Gate": ["z"]}
    text = "Ozma saw Oz's Emerald\nCity and the Emerald City Gate."
    assert [(f.key, text[f.start : f.end]) for f in find_anchors(text, anchors)] == [
        ("Oz", "Oz"),
        ("Emerald City", "Emerald\nCity"),
        ("Emerald City Gate", "Emerald City Gate"),
    ]
    assert list(find_anchors("oz", anchors)) == []
    assert list(find_anchors("Oz", {})) == []
    assert next(find_anchors("Oz", anchors)) == Found("Oz", 0, 2)


STORY = " ".join(
    f"Then Zorblatt said that he was {how}. We saw how Mira laughed, for she was {how}. They went to Quem by night. "
    f"Behind them the Grumble slept, and there stood a flimwagon."
    for how in ("tired", "happy", "late", "early", "alone", "ready", "hungry", "late", "lost", "warm")
)
OTHER = "Then Thomas said that he was tired. We went home by night, and behind us the dog slept. " * 60


def test_mining_finds_names_and_guesses_their_kind():
    """Zorblatt goes with 'he', Mira with 'she', Quem follows 'to', 'the Grumble' has an article."""
    anchors = mine_anchors([STORY], [OTHER])
    kinds = stand_in_lists()
    assert set(anchors) == {"Zorblatt", "Mira", "Quem", "Grumble", "flimwagon"}
    for name, kind in [("Zorblatt", "man"), ("Mira", "woman"), ("Quem", "place"), ("Grumble", "figure")]:
        assert len(anchors[name]) == 4
        assert set(anchors[name]) <= set(kinds[kind]), name
    assert set(anchors["flimwagon"]) <= set(kinds["thing"])
    assert mine_anchors([STORY], [OTHER]) == anchors
    assert set(mine_anchors([STORY], [OTHER], rare_words=False)) == set(anchors) - {"flimwagon"}
    assert len(mine_anchors([STORY], [OTHER], num=2)) == 2


def test_mining_leaves_what_other_text_has_too():
    """Every name of the story occurs in the other text just as often, so none of them gives it away."""
    with pytest.raises(DataError, match="no expression"):
        mine_anchors([STORY], [STORY])


def test_mining_needs_other_text():
    with pytest.raises(DataError, match="no retain set"):
        mine_anchors([STORY], [])


def test_mined_anchors_pass_the_check_of_files():
    assert check_anchors(mine_anchors([STORY], [OTHER]), "mined")
