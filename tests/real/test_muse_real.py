"""MUSE on real books, cut into its layout: Oz is forgotten, Sherlock Holmes is kept, and nobody read the last stories.

A small model learns all of it, another one all but Oz. The benchmark has to tell them apart: the first one recites and
knows Oz and gives it away, the second one does not, and both know Holmes.
"""

import json
import re

import pytest
import torch
import transformers

from expunge.benchmarks.muse.benchmark import Muse
from expunge.config.recipe import Measure, Prompt
from expunge.data.muse import load_muse
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.load import train_tokenizer
from expunge.runs.evaluator import Evaluator

NUM, CONTEXT = 6, 96
NOTHING = Sets("", RowSet("forget", ()), None)


def passages(text, num, words=24):
    """Pieces from the middle of a book, where there is no licence and no list of contents."""
    all_words = re.findall(r"\S+", text[len(text) // 4 :])
    return [" ".join(all_words[i * words : (i + 1) * words]) for i in range(num)]


def questions(pieces):
    """Which words follow the beginning of a piece?"""
    split = [piece.split() for piece in pieces]
    return [{"question": f"What follows {' '.join(w[:4])}?", "answer": " ".join(w[4:8])} for w in split]


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    books = shared / "data/books"
    if not books.is_dir():
        pytest.skip(f"{books} does not exist")
    oz = passages((books / "oz1_wonderful_wizard_of_oz_pg55.txt").read_text(encoding="utf-8"), 4 * NUM)
    holmes = (books / "adventures_of_sherlock_holmes_pg1661.txt").read_text(encoding="utf-8")
    retain, holdout = passages(holmes, NUM), passages(holmes[len(holmes) // 2 :], NUM)
    forget = oz[:NUM]
    root = tmp_path_factory.mktemp("muse")
    halves = [(" ".join(w[:12]), " ".join(w[12:])) for w in (piece.split() for piece in forget)]
    splits = {
        "raw/forget": [{"text": text} for text in forget],
        "raw/retain1": [{"text": text} for text in retain],
        "raw/holdout": [{"text": text} for text in holdout],
        "verbmem/forget": [{"prompt": prompt, "gt": rest} for prompt, rest in halves],
        "knowmem/forget_qa": questions(forget),
        "knowmem/retain_qa": questions(retain),
        "privleak/forget": [{"text": text} for text in forget],
        "privleak/holdout": [{"text": text} for text in holdout],
        **{f"scal/forget_{k}": [{"text": text} for text in oz[: k * NUM]] for k in (1, 2, 3, 4)},
        **{f"sust/forget_{k}": [{"text": text} for text in oz[(k - 1) * NUM : k * NUM]] for k in (1, 2, 3, 4)},
    }
    for name, rows in splits.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def measured(folder):
    """`measured(who)`: rows of the model that learnt everything ('target') or all but Oz ('retrained')."""

    def texts_of(raw, questions):
        """Texts to learn, as (prompt, rest): the space before an answer belongs to the prompt, as in MUSE."""
        found = [("", row.answer) for row in load_muse(str(folder), raw, ("", "text"))]
        rows = load_muse(str(folder), questions, ("question", "answer"))
        return found + [(f"Question: {row.question}\nAnswer: ", row.answer) for row in rows]

    oz, holmes = texts_of("raw/forget", "knowmem/forget_qa"), texts_of("raw/retain1", "knowmem/retain_qa")
    tokenizer = train_tokenizer([prompt + rest for prompt, rest in oz + holmes], 500, CONTEXT)
    template = Template(tokenizer, Prompt(style="plain"), CONTEXT)

    def learnt(texts):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
        model = transformers.AutoModelForCausalLM.from_config(config)
        ids = [
            torch.tensor([*template.raw_ids(prompt), *tokenizer(rest)["input_ids"], tokenizer.eos_token_id])
            for prompt, rest in texts
        ]
        batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            model(input_ids=batch.clamp(min=0), labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()

    benchmark = Muse(path=str(folder), num_examples=0)
    evaluator = Evaluator(NOTHING, template, Measure(batch_tokens=4096))
    return benchmark, {
        who: evaluator.measure(learnt(texts), benchmark, who).rows
        for who, texts in (("target", oz + holmes), ("retrained", holmes))
    }


def test_it_tells_a_model_that_knows_from_one_that_never_did(measured):
    benchmark, rows = measured
    target, retrained = (
        {
            name: value.point
            for name, value in benchmark.headlines(rows[who], rows["retrained"], 50, 0).headlines.items()
        }
        for who in ("target", "retrained")
    )
    assert target["verbmem_forget"] > 90
    assert target["knowmem_forget"] > 90
    assert target["knowmem_retain"] > 90
    assert target["privleak"] < -90
    assert retrained["verbmem_forget"] < 40
    assert retrained["knowmem_forget"] < 50
    assert retrained["knowmem_retain"] > 90
    assert retrained["privleak"] == 0


def test_requests_grow_or_have_nothing_in_common(folder):
    """As MUSE has it: each of scal's sets holds the one before it; sust's are disjoint parts of the largest."""
    texts = {
        (subset, k): {row.answer for row in load_muse(str(folder), f"{subset}/forget_{k}", ("", "text"))}
        for subset in ("scal", "sust")
        for k in (1, 2, 3, 4)
    }
    for k in (2, 3, 4):
        assert texts["scal", k - 1] < texts["scal", k]
        assert texts["sust", k].isdisjoint(texts["scal", k - 1])
        assert texts["sust", k] | texts["scal", k - 1] == texts["scal", k]
