"""Padding and the flat list of answer tokens, written out by hand."""

import numpy as np
import pytest

from expunge.data.collate import collate
from expunge.data.templates import Encoded

EOS = 2
LONG = Encoded(ids=(5, 6, EOS, 7, EOS), answer_start=3, row="long")
SHORT = Encoded(ids=(5, 8, EOS), answer_start=1, row="short")


def test_padding_on_the_right():
    """The long row answers with (7, EOS) after positions 2 and 3; the short one with (8, EOS) after 0 and 1."""
    batch = collate([LONG, SHORT], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, EOS, 7, EOS], [5, 8, EOS, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 1, 1]
    assert batch.positions.tolist() == [2, 3, 0, 1]
    assert batch.labels.tolist() == [7, EOS, 8, EOS]
    assert batch.num_answer.tolist() == [2, 2]
    assert batch.num_rows == 2


def test_padding_on_the_left():
    """Everything of the short row moves by the two columns before it."""
    batch = collate([LONG, SHORT], pad_id=0, side="left")
    assert batch.input_ids.tolist() == [[5, 6, EOS, 7, EOS], [0, 0, 5, 8, EOS]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.positions.tolist() == [2, 3, 2, 3]
    assert batch.labels.tolist() == [7, EOS, 8, EOS]


def test_end_token_used_as_padding_stays_visible_inside_a_row():
    """Masks come from lengths: the end tokens at places 2 and 4 of the long row are real, the padding is not."""
    batch = collate([LONG, SHORT], pad_id=EOS)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.labels.tolist().count(EOS) == 2


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("extra", [0, 3])
def test_labels_follow_their_predicting_positions(side, extra):
    """Whatever the padding, the token after a predicting position is the label."""
    batch = collate([LONG, SHORT, SHORT], pad_id=0, side=side, extra_padding=extra)
    assert batch.input_ids.shape == (3, 5 + extra)
    assert np.array_equal(batch.input_ids[batch.rows, batch.positions + 1], batch.labels)
    assert batch.attention_mask.sum(1).tolist() == [5, 3, 3]
