"""Multiple choice through lm-eval, on a small model and a handful of local questions."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import expunge
from expunge.benchmarks.general import General
from expunge.benchmarks.mmlu import Mmlu
from expunge.benchmarks.wmdp import Wmdp
from expunge.config.recipe import Measure, Prompt, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import DataError, MissingExtraError, UserError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.runs.evaluator import Evaluator

CHOICES = ["ash", "oak leaf", "elm", "yew"]
FILES = {
    "arc_easy_test": {"question": "Which one?", "choices": CHOICES, "answer": 2},
    "arc_challenge_val": {"question": "Which one?", "choices": CHOICES[:3], "answer": 0},
    "boolq_val": {"passage": "Trees grow.", "question": "do trees grow", "choices": ["no", "yes"], "answer": 1},
    "hellaswag_val_10": {"question": "Trees: A tree", "choices": CHOICES, "answer": 3},
    "openbookqa_test": {"question": "A tree is", "choices": CHOICES, "answer": 1},
    "piqa_val": {"question": "Plant a tree.", "choices": ["Dig.", "Sing."], "answer": 0},
    "winogrande_xl_val": {"question": "Ann saw Bea as _ slept.", "choices": ["Ann", "Bea"], "answer": 1},
    "mmlu/anatomy_test": {"question": " Which one? ", "choices": CHOICES, "answer": 2},
    "wmdp/bio_test": {"question": "Which one?", "choices": CHOICES, "answer": 1},
}
LETTERED = "Which one?\nA. ash\nB. oak leaf\nC. elm\nD. yew\nAnswer:"
ABOUT = "The following are multiple choice questions (with answers) about"
PROMPTS = {
    "arc_easy": ("Question: Which one?\nAnswer:", CHOICES, 2),
    "arc_challenge": ("Question: Which one?\nAnswer:", CHOICES[:3], 0),
    "boolq": ("Trees grow.\nQuestion: do trees grow?\nAnswer:", ["no", "yes"], 1),
    "hellaswag": ("Trees: A tree", CHOICES, 3),
    "openbookqa": ("A tree is", CHOICES, 1),
    "piqa": ("Question: Plant a tree.\nAnswer:", ["Dig.", "Sing."], 0),
    "winogrande": ("", ["Ann saw Bea as Ann", "Ann saw Bea as Bea"], 1),
    "mmlu_anatomy": (f"{ABOUT} anatomy.\n\n{LETTERED}", ["A", "B", "C", "D"], 2),
    "wmdp_bio": ("", [], 1),
}


def write(folder, **files):
    for name, lines in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def data(tmp_path):
    write(tmp_path, **{name: [line] for name, line in FILES.items()})
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([LETTERED, "Question: Answer: trees grow"] * 4, vocab_size=300, max_length=160)


@pytest.fixture(scope="module")
def model(tokenizer):
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, vocab_size=300, max_length=160)
    built = build_scratch(scratch, tokenizer, seed=0)
    for parameter in built.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return built


def measure(model, tokenizer, benchmark, dtype=torch.float32):
    sets = Sets("", RowSet("forget", ()), None)
    evaluator = Evaluator(sets, Template(tokenizer, Prompt(style="plain"), 160), Measure(batch_tokens=256), dtype=dtype)
    return evaluator.measure(model, benchmark, "the model")


def streams():
    """State of everybody's random numbers."""
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
    }


@torch.no_grad()
def logp(model, tokenizer, prompt, choice):
    """Sum of the log-probabilities of the choice's tokens after the prompt, one forward pass."""
    start = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(prompt + choice)["input_ids"]
    scores = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(scores[i - 1, ids[i]]) for i in range(start, len(ids)))


def test_prompts_are_those_of_lm_eval(model, tokenizer, data):
    """Wording as the papers print it, choices after a space, and the right one where the file says."""
    tasks = [General(data=str(data)), Mmlu(data=str(data), subjects=["anatomy"]), Wmdp(data=str(data), topics=["bio"])]
    rows = [row for task in tasks for row in measure(model, tokenizer, task).rows]
    assert {row["set"]: (row["question"], row["choices"], row["gold"]) for row in rows} == PROMPTS
    for row in rows:
        assert set(row) == set(tasks[0].columns())
        if row["question"]:
            expected = [logp(model, tokenizer, row["question"], f" {choice}") for choice in row["choices"]]
        elif row["choices"]:
            expected = [logp(model, tokenizer, choice, " slept.") for choice in row["choices"]]
        else:
            prompt = f"{ABOUT} biology.\n\n{LETTERED}"
            expected = [logp(model, tokenizer, prompt, f" {letter}") for letter in "ABCD"]
        np.testing.assert_allclose(row["logp"], expected, rtol=0, atol=1e-4)
        assert row["correct"] == (int(np.argmax(expected)) == row["gold"])


def test_what_identifies_the_questions(data):
    plan = General(data=str(data), tasks=["arc_easy"]).plan(None)
    task = plan.facts["tasks"]["arc_easy"]
    assert (task["version"], task["file"], task["split"], task["rows"]) == (1.0, "arc_easy_test.jsonl", "test", 1)
    write(data, arc_easy_test=[{**FILES["arc_easy_test"], "answer": 1}])
    assert General(data=str(data), tasks=["arc_easy"]).plan(None).facts["tasks"]["arc_easy"]["hash"] != task["hash"]
    hub = General(data="hub", tasks=["arc_easy"]).plan(None).facts["tasks"]["arc_easy"]
    assert hub["hub"] == "allenai/ai2_arc/ARC-Easy"
    assert "hash" not in hub


def test_a_prompt_longer_than_the_context_is_not_scored(model, tokenizer, data):
    """lm-eval would cut its beginning off and score the rest. The neighbours' numbers do not change."""
    line = FILES["boolq_val"]
    long = {**line, "passage": "Trees grow. " * 60}
    write(data, boolq_val=[line, long, {**line, "answer": 0}])
    found = measure(model, tokenizer, General(data=str(data), tasks=["boolq"]))
    assert [row["correct"] is None for row in found.rows] == [False, True, False]
    assert found.rows[0]["logp"] == found.rows[2]["logp"]
    assert found.rows[0]["correct"] != found.rows[2]["correct"]
    assert found.rows[0]["group"] == found.rows[2]["group"] != found.rows[1]["group"]


def test_the_longest_prompt_that_fits(model, tokenizer, data):
    """160 tokens are read and the 161st is predicted; one more is too long."""
    lines = [{"question": "a" * n, "choices": ["!", "?"], "answer": 0} for n in range(100, 200)]
    write(data, piqa_val=lines)
    found = measure(model, tokenizer, General(data=str(data), tasks=["piqa"]))
    for row in found.rows:
        longest = max(len(tokenizer(f"{row['question']} {choice}")["input_ids"]) for choice in row["choices"])
        assert (row["correct"] is None) == (longest > 161), longest


def test_limit_examples_and_batches(model, tokenizer, data):
    line = FILES["mmlu/anatomy_test"]
    lines = [{**line, "question": f"Which {word}?"} for word in ("one", "tree", "leaf")]
    write(data, **{"mmlu/anatomy_test": lines})
    settings = {"data": str(data), "subjects": ["anatomy"]}
    whole = measure(model, tokenizer, Mmlu(**settings, batch_size=1)).rows
    together = measure(model, tokenizer, Mmlu(**settings, batch_size=16)).rows
    assert [row["index"] for row in whole] == [0, 1, 2]
    for one, other in zip(whole, together, strict=True):
        np.testing.assert_allclose(one["logp"], other["logp"], atol=1e-5)
    first = measure(model, tokenizer, Mmlu(**settings, limit=1)).rows
    assert [row["question"] for row in first] == [whole[0]["question"]]
    with pytest.raises(DataError, match=r"no worked examples for mmlu_anatomy.*mmlu/anatomy_dev\.jsonl"):
        Mmlu(**settings, num_fewshot=1).plan(None)
    write(data, **{"mmlu/anatomy_dev": [{**line, "question": "Shot?"}]})
    shown = measure(model, tokenizer, Mmlu(**settings, num_fewshot=1, limit=1)).rows[0]["question"]
    shot = "Shot?\nA. ash\nB. oak leaf\nC. elm\nD. yew\nAnswer: C\n\n"
    assert shown == f"{ABOUT} anatomy.\n\n{shot}{LETTERED}"


def test_the_chat_template(model, tokenizer, data):
    """Off unless asked for; this one opens with the start token and frames the prompt once more."""
    chat = General(data=str(data), tasks=["arc_easy"], apply_chat_template=True)
    asked = measure(model, tokenizer, chat).rows[0]["question"]
    assert asked == "<s>Question: Question: Which one?\nAnswer:\nAnswer:"
    bare = train_tokenizer(["trees"] * 4, vocab_size=300, max_length=160)
    bare.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        measure(model, bare, chat)


def test_training_is_not_disturbed(model, tokenizer, data):
    """Neither the model's mode nor any stream of random numbers changes."""
    model.train()
    before = streams()
    measure(model, tokenizer, General(data=str(data), tasks=["arc_easy"]))
    assert model.training
    assert streams() == before
    model.eval()


def test_precision_of_the_forward_pass(model, tokenizer, data):
    """A model with float32 weights that is used in bfloat16 is measured in bfloat16: close, but not the same."""
    benchmark = General(data=str(data), tasks=["arc_easy"])
    exact, rough = (measure(model, tokenizer, benchmark, dtype).rows[0] for dtype in (torch.float32, torch.bfloat16))
    assert exact["logp"] != rough["logp"]
    np.testing.assert_allclose(exact["logp"], rough["logp"], rtol=0.05)


def test_several_processes_share_whole_questions(model, tokenizer, data, monkeypatch):
    """Two shares of five questions, of different numbers of choices, put together again give the numbers of one."""
    from expunge.benchmarks.shared.multiple_choice import lm_eval as _lm_eval

    lines = [{**FILES["arc_easy_test"], "question": f"Tree {i}?", "choices": CHOICES[: 2 + i % 3]} for i in range(5)]
    write(data, arc_easy_test=[{**line, "answer": 0} for line in lines])
    benchmark = General(data=str(data), tasks=["arc_easy"])
    alone = measure(model, tokenizer, benchmark).rows

    def two(function, items):
        shares = [function(items[0::2]), function(items[1::2])]
        return [shares[i % 2][i // 2] for i in range(len(items))]

    monkeypatch.setattr(_lm_eval, "map_over_ranks", two)
    shared = measure(model, tokenizer, benchmark).rows
    assert [row["correct"] for row in shared] == [row["correct"] for row in alone]
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one["logp"], other["logp"], atol=1e-5)


def test_missing_data(data, monkeypatch):
    (data / "piqa_val.jsonl").unlink()
    with pytest.raises(DataError, match=r"no questions for piqa\..*piqa_test\.jsonl.*data=hub"):
        General(data=str(data)).plan(None)
    monkeypatch.setenv("EXPUNGE_MCQ", str(data))
    assert "hash" not in General().plan(None).facts["tasks"]["arc_easy"]
    assert "hash" in General(tasks=["arc_easy"]).plan(None).facts["tasks"]["arc_easy"]


def test_the_hub_out_of_reach(model, tokenizer, monkeypatch):
    """datasets fails in many ways; all of them end in one sentence that says what to do."""
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"arc_easy cannot be loaded from the hub \(allenai/ai2_arc\).*data=<folder>"):
        measure(model, tokenizer, General(data="hub", tasks=["arc_easy"]))


def test_without_lm_eval(data, monkeypatch):
    import expunge.benchmarks.shared.multiple_choice as room

    monkeypatch.delattr(room, "lm_eval", raising=False)
    monkeypatch.delitem(sys.modules, "expunge.benchmarks.shared.multiple_choice.lm_eval", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'expunge\[eval\]'"):
        General(data=str(data)).plan(None)


def test_the_command_from_python(model, tokenizer, data, tmp_path, capsys):
    """Result, table's numbers and records; nothing on standard output."""
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    benchmark = {"name": "general", "data": str(data), "limit": 1}
    result = expunge.evaluate({"model": folder, "benchmark": benchmark}, out=tmp_path / "out")
    assert set(result.headlines) == set(General().tasks)
    assert all(value.point in (0, 1) for value in result.headlines.values())
    assert all(value.low < value.high for value in result.headlines.values())
    assert result.settings["lm_eval"]
    assert (tmp_path / "out" / result.samples).is_file()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "arc_challenge (validation rows)" in captured.err
    assert "metadata" not in captured.err


def test_git_is_not_called(model, tokenizer, data, monkeypatch):
    """lm-eval runs `git describe`, whose complaint outside a repository would be on the user's terminal."""
    called, check_output = [], subprocess.check_output
    # Other libraries call other programs.
    monkeypatch.setattr(subprocess, "check_output", lambda words, **_: called.append(words) or check_output(words, **_))
    measure(model, tokenizer, General(data=str(data), tasks=["piqa"]))
    assert [words for words in called if words[0] == "git"] == []
