"""Row store: which hidden states are stored, how much memory they take, and when they cannot be reused."""

import pytest
import torch
import transformers

from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.batch import TensorBatch, take
from expunge.modeling.capabilities import can_store
from expunge.modeling.hidden.row_store import RowStore, store_bytes, widest_padding
from expunge.modeling.hidden.steering_pass import SteeringPass
from expunge.modeling.hidden.trace import layer_trace

ROWS = [Encoded((1, 5, 6, 7, 8, 2), 1), Encoded((1, 9, 10, 2), 1), Encoded((1, 11, 2), 2)]
EVERY = {"forget": {0: 2, 1: 2, 2: 2}}


def batch(*rows: int, extra: int = 0) -> TensorBatch:
    """Some of `ROWS`, with extra padding columns."""
    return TensorBatch.of(collate([ROWS[row] for row in rows], 0, extra_padding=extra), "cpu")


def states(tensors: TensorBatch, size: int = 2) -> torch.Tensor:
    """(B, L, size): 100 b + t at real tokens, 100 b + 99 at padding."""
    steps = torch.arange(tensors.input_ids.shape[1]).expand_as(tensors.input_ids)
    values = 100.0 * torch.arange(tensors.num_rows)[:, None] + torch.where(tensors.attention_mask.bool(), steps, 99)
    return values[..., None].expand(-1, -1, size)


def model(kind: str = "llama", **extra: object) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(
        kind,
        **{
            "vocab_size": 64,
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32,
            **extra,
        },
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def test_rows_are_read_in_a_different_batch() -> None:
    """Rows 1 and 2 (4 and 3 tokens), stored in a batch with row 0 (6), fill five columns with their padding state."""
    store, first = RowStore(1, 1e6, EVERY, padding=True), batch(0, 1, 2)
    store.keep("forget", [0, 1, 2], first, [states(first), -states(first)])
    first_states, second_states = store.read("forget", [2, 1], batch(2, 1, extra=1))
    assert first_states[..., 0].tolist() == [[200, 201, 202, 299, 299], [100, 101, 102, 103, 199]]
    assert torch.equal(second_states, -first_states)


def test_a_row_stored_without_padding_lacks_a_padding_state() -> None:
    store, first = RowStore(1, 1e6, EVERY, padding=True), batch(0, 1)
    assert store.contains("forget", [0, 1], first) == [False, False]
    store.keep("forget", [0, 1], first, [states(first)])
    assert store.contains("forget", [0, 1], first) == [True, True]
    assert store.contains("retain", [0, 1], first) == [False, False]
    wider = batch(0, 1, extra=1)
    assert store.contains("forget", [0, 1], wider) == [False, True]
    store.keep("forget", [0], take(wider, [0]), [states(wider)[:1]])
    assert store.contains("forget", [0, 1], wider) == [True, True]
    without = RowStore(1, 1e6, EVERY, padding=False)
    without.keep("forget", [0, 1], first, [states(first)])
    assert without.contains("forget", [0, 1], wider) == [True, True]


def test_padding_beyond_a_window_is_not_stored() -> None:
    """With a window of 6 columns, the padding state of column 5 is not that of the seventh column."""
    store, first = RowStore(1, 1e6, EVERY, padding=True, widest=6), batch(1, extra=1)
    store.keep("forget", [1], first, [states(first)])
    assert store.contains("forget", [1], batch(1, extra=2)) == [True]
    assert store.contains("forget", [1], batch(1, extra=3)) == [False]
    assert widest_padding(model("mistral", sliding_window=6)) == 6
    assert widest_padding(model()) is None


def test_rows_are_stored_while_they_fit() -> None:
    """Two states of 2 float32 values are 16 bytes per token: rows of 6, 4 and 3 tokens take 96, 64 and 48."""
    whole = batch(0, 1, 2)
    store = RowStore(1, 150, EVERY, padding=False)
    store.keep("forget", [0, 1, 2], whole, [states(whole), states(whole)])
    assert store.contains("forget", [0, 1, 2], whole) == [True, False, True]
    assert store.room == 6
    larger = RowStore(1, 208, EVERY, padding=False)
    larger.keep("forget", [0, 1, 2], whole, [states(whole), states(whole)])
    assert larger.contains("forget", [0, 1, 2], whole) == [True, True, True]


def test_a_padding_state_replaces_the_row_stored_without_one() -> None:
    """A row of 6 tokens takes 48 bytes, and 56 with its padding state, but not both at once."""
    store, narrow, wide = RowStore(1, 60, EVERY, padding=True), batch(0), batch(0, extra=1)
    store.keep("forget", [0], narrow, [states(narrow)])
    assert store.room == 12
    store.keep("forget", [0], wide, [states(wide)])
    assert store.room == 4
    assert store.contains("forget", [0], wide) == [True]


def test_rows_stay_from_their_first_visit_to_their_last() -> None:
    """Row 0 is visited once, row 1 three times: at 8 bytes per token, 32 are stored until the third visit."""
    both, store = batch(0, 1), RowStore(1, 1000, {"forget": {0: 1, 1: 3}}, padding=False)
    for visit, (before, after) in enumerate([(968, 968), (968, 968), (968, 1000)]):
        store.keep("forget", [0, 1], both, [states(both)])
        assert store.contains("forget", [0, 1], both) == [False, True], visit
        assert store.room == before
        store.count_visit("forget", [0, 1])
        assert store.room == after
    store.keep("forget", [0, 1], both, [states(both)])
    assert store.contains("forget", [0, 1], both) == [False, False]


def test_predicted_bytes_are_bytes_taken() -> None:
    """Rows of 6, 4 and 3 tokens; 8 bytes per token of forget, 16 of retain.

    In steps (0, 1), (0, 2), (1, 2) all three rows (13 tokens) are stored in the second, since row 2 is added before row
    0 is dropped. The maximum is reached when retain row 0 is still stored and forget row 0 is not: 7 x 8 + 13 x 16
    bytes against 13 x 8 + 10 x 16. With padding each row is one longer.
    """
    steps = [{"forget": rows, "retain": rows} for rows in ([0, 1], [0, 2], [1, 2])]
    visits = {name: {0: 2, 1: 2, 2: 2} for name in ("forget", "retain")}
    lengths = {name: [len(row.ids) for row in ROWS] for name in visits}
    settings = {"hidden_size": 2, "num_bytes": 1e6}
    for padding, expected in ((False, 7 * 8 + 13 * 16), (True, 9 * 8 + 16 * 16)):
        store, least = RowStore(1, 1e6, visits, padding=padding), 1e6
        for step in steps:
            for name, rows in step.items():
                tensors = batch(*rows, extra=1)
                store.keep(name, rows, tensors, [states(tensors)] * (1 + (name == "retain")))
                least = min(least, store.room)
                store.count_visit(name, rows)
        assert 1e6 - least == expected
        assert store_bytes(lengths, steps, visits, first=1, padding=padding, **settings) == expected
        assert store.room == 1e6
    assert store_bytes(lengths, steps, visits, first=0, padding=False, **settings) == 13 * 8
    assert store_bytes(lengths, steps, visits, first=1, padding=False, **{**settings, "num_bytes": 50}) == 50
    once = {name: {0: 1, 1: 1} for name in visits}
    assert store_bytes(lengths, steps[:1], once, first=1, padding=False, **settings) == 0


def test_rows_of_a_batch() -> None:
    taken, alone = take(batch(0, 1, 2), [0, 2]), batch(0, 2)
    for name in ("input_ids", "attention_mask", "rows", "positions", "labels", "num_answer"):
        assert torch.equal(getattr(taken, name), getattr(alone, name)), name
    assert taken.spans == alone.spans
    assert take(batch(0, 1, 2), [1]).input_ids.shape == (1, 6)


def test_layers_below_a_given_input_are_not_run() -> None:
    built, ran = model().eval(), []
    for index, layer in enumerate(built.model.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        whole = layer_trace(built, batch(0, 1), 1, first=1)
        assert ran == [0, 1]
        ran.clear()
        again = layer_trace(built, batch(0, 1), 1, first=1, entering=whole.entering)
    assert ran == [1]
    assert torch.equal(again.hidden, whole.hidden)
    assert all("forward" not in vars(layer) for layer in built.model.layers)


def test_stored_and_new_rows_are_returned_in_order() -> None:
    """Rows 1 and 2 are stored and row 0 is not: concatenated as 1, 2, 0, a permutation that is not its own inverse."""
    built, whole = model().eval(), batch(0, 1, 2, extra=1)
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(name == "model.layers.1.mlp.down_proj.weight")
    plain, storing = SteeringPass(built, 2), SteeringPass(built, 2)
    assert storing.store_rows(EVERY, 1e6, padding=True) == ""
    storing.hidden_and_frozen(batch(1, 2, extra=3), name="forget", rows=[1, 2])
    with torch.no_grad():
        built.model.layers[1].mlp.down_proj.weight.mul_(2)
    assert storing.store.contains("forget", [0, 1, 2], whole) == [False, True, True]
    hidden, frozen = storing.hidden_and_frozen(whole, name="forget", rows=[0, 1, 2])
    expected, expected_frozen = plain.hidden_and_frozen(whole)
    torch.testing.assert_close(hidden, expected)
    torch.testing.assert_close(frozen, expected_frozen)
    assert hidden.requires_grad
    assert not torch.allclose(hidden, frozen)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma2", "gemma3_text", "phi", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("padding", [True, False])
def test_common_decoders_can_be_stored(kind: str, padding: bool) -> None:
    built = model(kind, pad_token_id=0)
    assert all(can_store(built, first, 2, padding) for first in (0, 1, 2))


def test_states_that_change_between_visits_are_not_stored() -> None:
    """Dropout, and padding columns whose attention window of 4 has no token of the row."""
    assert not can_store(model(attention_dropout=0.5), 1, 2, False)
    windowed = model("mistral", sliding_window=4)
    assert can_store(windowed, 1, 2, False)
    assert not can_store(windowed, 1, 2, True)
