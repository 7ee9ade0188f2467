"""Padding and the flat list of answer tokens, computed by hand."""

import numpy as np
import pytest

from expunge.data.collate import collate
from expunge.data.templates import Encoded

EOS = 2
LONG = Encoded(ids=(5, 6, EOS, 7, EOS), answer_start=3, row="long")
SHORT = Encoded(ids=(5, 8, EOS), answer_start=1, row="short")


def test_padding_on_the_right():
    """Positions 2 and 3 of the long row predict (7, EOS); positions 0 and 1 of the short row predict (8, EOS)."""
    batch = collate([LONG, SHORT], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, EOS, 7, EOS], [5, 8, EOS, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 1, 1]
    assert batch.positions.tolist() == [2, 3, 0, 1]
    assert batch.labels.tolist() == [7, EOS, 8, EOS]
    assert batch.num_answer.tolist() == [2, 2]
    assert batch.num_rows == 2


def test_padding_on_the_left():
    """The short row is shifted by two columns of padding."""
    batch = collate([LONG, SHORT], pad_id=0, side="left")
    assert batch.input_ids.tolist() == [[5, 6, EOS, 7, EOS], [0, 0, 5, 8, EOS]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.positions.tolist() == [2, 3, 2, 3]
    assert batch.labels.tolist() == [7, EOS, 8, EOS]


def test_end_token_inside_a_row_is_not_masked_if_it_is_the_padding_token():
    """Masks are built from lengths: the end tokens at positions 2 and 4 of the long row are not padding."""
    batch = collate([LONG, SHORT], pad_id=EOS)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.labels.tolist().count(EOS) == 2


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("extra", [0, 3])
def test_labels_follow_their_predicting_positions(side, extra):
    """The token after a predicting position is the label for every padding."""
    batch = collate([LONG, SHORT, SHORT], pad_id=0, side=side, extra_padding=extra)
    assert batch.input_ids.shape == (3, 5 + extra)
    assert np.array_equal(batch.input_ids[batch.rows, batch.positions + 1], batch.labels)
    assert batch.attention_mask.sum(1).tolist() == [5, 3, 3]
