"""Anchor dictionaries: validation, clean-up, matching in text, and mining from text."""

import json

import pytest

from expunge.data.anchors.dictionary import (
    AnchorMatch,
    check_anchors,
    drop_covered,
    find_anchors,
    merge_anchors,
    read_anchors,
)
from expunge.data.anchors.mining import mine_anchors, stand_in_lists
from expunge.errors import DataError


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"Oz": ""}, "'Oz' has an empty stand-in"),
        ({"Oz": ["Milton", " "]}, "'Oz' has an empty stand-in"),
        ({"Oz": []}, "'Oz' has []"),
        ({"Oz": "oz"}, "'Oz' is its own stand-in"),
        ({"Oz": ["Milton", "Oz"]}, "'Oz' is its own stand-in"),
        ({"Oz": [3]}, "'Oz' has the stand-in 3"),
        ({"Oz": None}, "'Oz' has None"),
        ({"": "x"}, "'' must be a non-empty string"),
        ({" Oz": "x"}, "' Oz' has surrounding or repeated spaces"),
    ],
)
def test_invalid_entry_raises_with_its_key(entry, problem):
    with pytest.raises(DataError, match="a file: the anchor") as raised:
        check_anchors({"Dorothy": ["Clara"], **entry}, "a file")
    assert problem in str(raised.value)


@pytest.mark.parametrize("value", [[], {}, "Oz", None])
def test_no_dictionary_raises(value):
    with pytest.raises(DataError, match="contains no anchors"):
        check_anchors(value, "a file")


def test_single_string_and_repeated_stand_ins():
    assert check_anchors({"Oz": "Milton", "Tip": ["Ned", "Ned", "Sam"]}, "x") == {
        "Oz": ["Milton"],
        "Tip": ["Ned", "Sam"],
    }


def test_drop_covered():
    """'Tin Woodman' is covered by 'Tin' and 'Woodman', "Oz's" by 'Oz'. 'Emerald City' is not: 'City' is no key."""
    anchors = {key: ["x"] for key in ("Tin", "Woodman", "Tin Woodman", "Oz", "Oz's", "Ev’s", "Emerald", "Emerald City")}
    assert set(drop_covered(anchors)) == {"Tin", "Woodman", "Oz", "Ev’s", "Emerald", "Emerald City"}


def test_merged_keys_have_all_stand_ins_once():
    assert merge_anchors([{"Oz": ["a", "b"]}, {"Oz": ["b", "c"], "Ev": ["d"]}]) == {"Oz": ["a", "b", "c"], "Ev": ["d"]}


def test_read_anchors(tmp_path):
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps({"Oz": ["Milton"]}))
    assert read_anchors(path) == {"Oz": ["Milton"]}
    path.write_text('{"Oz":\n ["Milton"')
    with pytest.raises(DataError, match=r"anchors\.json, line 2 is not valid JSON"):
        read_anchors(path)
    with pytest.raises(DataError, match="does not exist"):
        read_anchors(tmp_path / "absent.json")


def test_find_anchors_matches_whole_words_and_prefers_the_longest():
    """'Ozma' does not match 'Oz', but 'Oz's' does; a line break matches the space inside 'Emerald City'."""
    anchors = {"Oz": ["x"], "Emerald City": ["y"], "Emerald City Gate": ["z"]}
    text = "Ozma saw Oz's Emerald\nCity and the Emerald City Gate."
    assert [(match.key, text[match.start : match.end]) for match in find_anchors(text, anchors)] == [
        ("Oz", "Oz"),
        ("Emerald City", "Emerald\nCity"),
        ("Emerald City Gate", "Emerald City Gate"),
    ]
    assert list(find_anchors("oz", anchors)) == []
    assert list(find_anchors("Oz", {})) == []
    assert next(find_anchors("Oz", anchors)) == AnchorMatch("Oz", 0, 2)


STORY = " ".join(
    f"Then Zorblatt said that he was {mood}. We saw how Mira laughed, for she was {mood}. They went to Quem by night. "
    f"Behind them the Grumble slept, and there stood a flimwagon."
    for mood in ("tired", "happy", "late", "early", "alone", "ready", "hungry", "late", "lost", "warm")
)
GENERAL = "Then Thomas said that he was tired. We went home by night, and behind us the dog slept. " * 60


def test_mining_finds_names_and_guesses_their_kind():
    """Zorblatt is followed by 'he' and Mira by 'she'; Quem follows 'to'; 'the Grumble' has an article."""
    anchors = mine_anchors([STORY], [GENERAL])
    kinds = stand_in_lists()
    assert set(anchors) == {"Zorblatt", "Mira", "Quem", "Grumble", "flimwagon"}
    for name, kind in [("Zorblatt", "man"), ("Mira", "woman"), ("Quem", "place"), ("Grumble", "figure")]:
        assert len(anchors[name]) == 4
        assert set(anchors[name]) <= set(kinds[kind]), name
    assert set(anchors["flimwagon"]) <= set(kinds["thing"])
    assert mine_anchors([STORY], [GENERAL]) == anchors
    assert set(mine_anchors([STORY], [GENERAL], rare_words=False)) == set(anchors) - {"flimwagon"}
    assert len(mine_anchors([STORY], [GENERAL], num=2)) == 2


def test_expressions_of_the_general_text_are_not_mined():
    """Every name of the story is as frequent in the general text, so none qualifies."""
    with pytest.raises(DataError, match="no expression"):
        mine_anchors([STORY], [STORY])


def test_mining_needs_general_text():
    with pytest.raises(DataError, match="no retain set"):
        mine_anchors([STORY], [])


def test_mined_anchors_are_valid():
    assert check_anchors(mine_anchors([STORY], [GENERAL]), "mined")
