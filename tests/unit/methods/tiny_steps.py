"""A random Llama of about a thousand parameters in float64, rows, steps on them, and plain-loop results."""

import copy

import torch
import transformers

from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.batch import TensorBatch
from expunge.modeling.reference import FrozenReference, reference_logp
from expunge.modeling.step import Counts, Step

VOCAB = 13
FORGET = [
    Encoded((1, 5, 3, 7, 2), 2, "forget/0"),
    Encoded((1, 4, 4, 9, 8, 11, 2), 3, "forget/1"),
    Encoded((1, 10, 2), 1, "forget/2"),
]
PREFERRED = [
    Encoded((1, 5, 9, 2), 2, "forget/0"),
    Encoded((1, 4, 4, 3, 2), 3, "forget/1"),
    Encoded((1, 6, 6, 2), 1, "forget/2"),
]
RETAIN = [
    Encoded((1, 7, 7, 3, 3, 2), 2, "retain/0"),
    Encoded((1, 8, 12, 2), 2, "retain/1"),
    Encoded((1, 3, 5, 10, 2), 1, "retain/2"),
]
ROWS = {"forget": FORGET, "preferred": PREFERRED, "refusal": PREFERRED, "retain": RETAIN}


def tiny_model(seed=0):
    """Two layers of width 8; weights have a standard deviation of 0.5, so that predictions differ clearly."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config).double()


def trained_pair(seed=0):
    """Return a model and the reference that it has moved away from a little."""
    start = tiny_model(seed)
    model = copy.deepcopy(start)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model, start


def make_step(method, model, start, *, rows=ROWS, part=slice(None), side="right", extra_padding=0, pad_id=0):
    """Return a bound step of a method on the rows of `part`; counts and scalars are those of all rows."""
    needs = method.needs()
    counts = {n: Counts(rows=len(rows[n]), tokens=sum(r.num_answer for r in rows[n])) for n in needs.sets}
    step = Step(
        {
            name: TensorBatch.of(collate(rows[name][part], pad_id, side=side, extra_padding=extra_padding), "cpu")
            for name in needs.sets
        },
        counts,
        {name: torch.from_numpy(reference_logp(start, rows[name], pad_id))[part] for name in needs.reference_logp},
        FrozenReference(start) if needs.reference else None,
    )
    step.bind(model)
    return step


def value_and_gradient(loss, model):
    """A loss as a number, and its gradient over all parameters as one vector."""
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return float(loss.detach()), torch.cat([part.flatten() for part in gradient])


def row_logits(model, row):
    """(tokens, V) logits of one row by itself, without padding or mask."""
    return model(torch.tensor([row.ids])).logits[0]


def answer_logits(model, row, shift=0):
    """[(logits that predict the token, token)] of a row's answer; shift 1 takes the token's own position."""
    logits = row_logits(model, row)
    return [(logits[i - 1 + shift], row.ids[i]) for i in range(row.answer_start, len(row.ids))]


def token_logps(model, row):
    """Log-probability of each answer token, as a list of scalars."""
    return [z[y] - torch.log(torch.exp(z).sum()) for z, y in answer_logits(model, row)]


def mean(values):
    """Plain mean of scalars."""
    values = list(values)
    return sum(values) / len(values)


def plain_nll(model, rows):
    """Cross-entropy over all answer tokens of rows."""
    return -mean(logp for row in rows for logp in token_logps(model, row))


def plain_kl(model, start, rows):
    """KL(start || model) over all answer tokens of rows."""
    values = []
    for row in rows:
        for (z, _), (z_ref, _) in zip(answer_logits(model, row), answer_logits(start, row), strict=True):
            p_ref = torch.softmax(z_ref.detach(), 0)
            values.append((p_ref * (torch.log(p_ref) - torch.log_softmax(z, 0))).sum())
    return mean(values)
