"""`expunge audit` on a model and on a run."""

import json

import pyarrow.parquet
import pytest
import yaml


def test_model_with_a_control(cli, tiny_model, recipe_file):
    words = ["--data", recipe_file.parent / "forget.jsonl", "--retain-model", tiny_model, "--out", "found"]
    done = cli("audit", tiny_model, "leaks", *words, "--set", "max_new_tokens=5", "--set", "views=[third_person]")
    assert done.code == 0, done.err
    assert "before (leak)" in done.out
    assert "third_person (leak)" in done.out
    assert "any_of_k (leak)" in done.out
    assert "Inconclusive: 3 of 3 attempts show neither" in done.out
    assert "No target is available as a control" in done.out
    record = json.loads((recipe_file.parent / "found/audits/leaks.json").read_text())
    assert set(record["arms"]) == {"unlearned", "retain"}
    assert record["settings"]["max_new_tokens"] == 5
    assert (recipe_file.parent / "found" / record["samples"]).is_file()


def test_prompts_with_their_transcripts(cli, tiny_model, recipe_file):
    """A prefix, plain text and another language reach the model; transcripts have the judged rows of each attempt."""
    rows = '{"question": "Where was %s born?", "answer": "In Bern."}\n'
    (recipe_file.parent / "two.jsonl").write_text(rows % "she" + rows % "he")
    words = ["--data", recipe_file.parent / "two.jsonl", "--retain-model", tiny_model, "--out", "found"]
    words += ["--set", "max_new_tokens=5", "--set", "views=[affirmative, completion]"]
    done = cli("audit", tiny_model, "prompts", *words)
    assert done.code == 0, done.err
    record = json.loads((recipe_file.parent / "found/audits/prompts.json").read_text())
    assert [finding["attempt"] for finding in record["findings"]] == ["before", "affirmative", "completion", "any_of_k"]
    rows = pyarrow.parquet.read_table(recipe_file.parent / "found" / record["samples"]).to_pylist()
    assert len(rows) == 2 * 4 * 2  # models, attempts, rows
    assert {row["leaks"] for row in rows} == {False}  # random weights
    assert {row["score"] for row in rows} == {0.0}
    assert all(row["threshold"] > 0 for row in rows if row["view"] != "any_of_k")


def test_run_uses_its_own_data_and_target(cli, recipe_file):
    done = cli("run", recipe_file, "--json")
    assert done.code == 0, done.err
    folder = json.loads(done.out)["folder"]
    audited = cli("audit", folder, "leaks", "--set", "max_new_tokens=5", "--json")
    assert audited.code == 0, audited.err
    record = json.loads(audited.out)
    assert set(record["arms"]) == {"unlearned", "target"}
    assert record["outcome"] == "inconclusive"
    page = (recipe_file.parent / folder / "report.html").read_text()
    assert "any_of_k (leak)" in page
    assert "prefix_4" in page
    assert "A leak cannot be distinguished from a guess without a retain model" in page

    other = json.loads(cli("run", recipe_file, "train.lr=2e-3", "--json").out)["folder"]
    assert other != folder
    again = cli("audit", other, "leaks", "--set", "max_new_tokens=5")
    assert "Attacking the unlearned model" in again.err
    assert "Attacking the target" not in again.err, "the target of both runs is attacked once"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["leeks"], "Did you mean 'leaks'"),
        (["--set", "views=[]"], "views"),
        (["--set", "view=[clues]"], "views"),
        (["--set", "threshold=0"], "threshold"),
        (["--retain-model", "nowhere/at-all"], "nowhere/at-all"),
        (["--data", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_bad_input(cli, tiny_model, recipe_file, words, message):
    data = [] if "--data" in words else ["--data", recipe_file.parent / "forget.jsonl"]
    named = words if words[0] == "leeks" else ["leaks", *words]
    done = cli("audit", tiny_model, *named, *data)
    assert done.code == 2
    assert message in done.err.replace("\n", " ")


def test_unfinished_run(cli, recipe_file):
    folder = recipe_file.parent / "half"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(yaml.safe_load(recipe_file.read_text())))
    done = cli("audit", folder)
    assert done.code == 2
    assert "not finished" in done.err
    done = cli("audit", folder, "--split", "forget01")
    assert done.code == 2
    assert "comes from the run itself" in done.err.replace("\n", " ")


@pytest.fixture
def people(tmp_path):
    """Writer of files with questions about people; returns the path."""

    def write(name, num_people, rows_each=2, **columns):
        rows = [
            {"group": f"p{person}", "question": f"Where was {person} born {i}?", "answer": f"In Bern {i}.", **columns}
            for person in range(num_people)
            for i in range(rows_each)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def other_model(tmp_path_factory, tiny_model):
    """Like the tiny model, with other random weights."""
    from expunge.config.recipe import Scratch
    from expunge.modeling.load import build_scratch, load_tokenizer

    folder = tmp_path_factory.mktemp("models") / "other"
    tokenizer = load_tokenizer(str(tiny_model), None, False)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
    build_scratch(scratch, tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


INT4 = ["--set", "precisions=[int4]", "--set", "measures=[probability]"]


def test_model_that_expunge_did_not_make(cli, tiny_model, other_model, people):
    """Only a forget file and a target: what can run runs, and the page states what is missing."""
    done = cli(
        "audit",
        tiny_model,
        "quantize",
        "--data",
        people("f.jsonl", 6),
        "--target",
        other_model,
        "--out",
        "found",
        *INT4,
    )
    assert done.code == 0, done.err
    assert "[1 of 4] Attacking the unlearned model" in done.err
    assert "[4 of 4] Attacking the target" in done.err
    folder = people("g.jsonl", 1).parent / "found"
    battery = json.loads((folder / "battery.json").read_text())
    assert battery["outcome"] == "inconclusive"
    assert {finding["excess"]["needs"] for finding in battery["findings"]} == {"a retain model (--retain-model)"}
    page = (folder / "audit.html").read_text()
    assert "no attempt can be called a leak or harmless" in page
    assert "was not asked for" in page
    again = cli(
        "audit",
        tiny_model,
        "quantize",
        "--data",
        people("f.jsonl", 6),
        "--target",
        other_model,
        "--out",
        "found",
        *INT4,
    )
    assert "Attacking" not in again.err
    assert json.loads((folder / "battery.json").read_text()) == battery


def test_another_target_is_not_answered_from_the_store(cli, tiny_model, other_model, people):
    """The rounding statistic compares with the target, so the attack on the unlearned model is repeated with it."""
    words = ["quantize", "--data", people("f.jsonl", 6), "--out", "found", "--json", *INT4]
    alone = json.loads(cli("audit", tiny_model, *words).out)
    assert not any("rounded_to_target" in finding["facts"] for finding in alone["findings"])
    compared = json.loads(cli("audit", tiny_model, *words, "--target", other_model).out)
    assert any("rounded_to_target" in finding["facts"] for finding in compared["findings"])


def test_same_model_as_control(cli, tiny_model, other_model, people):
    """u = r with a target that differs; and a retain model that is the target, with which nothing can be claimed."""
    words = ["quantize", "--data", people("f.jsonl", 8), "--json", *INT4]
    equal = json.loads(cli("audit", tiny_model, *words, "--retain-model", tiny_model).out)
    assert equal["outcome"] == "indistinguishable"
    both = ["--retain-model", other_model, "--target", other_model]
    refused = json.loads(cli("audit", tiny_model, *words, *both).out)
    assert refused["outcome"] == "inconclusive"
    assert "it knows the forget set, or the target does not" in refused["verdict"]


def test_no_questions(cli, tiny_model, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "She was born in Bern."}\n' * 2)
    done = cli("audit", tiny_model, "leaks", "--data", tmp_path / "text.jsonl")
    assert done.code == 2
    assert "has no questions" in done.err.replace("\n", " ")


def test_one_person(cli, tiny_model, other_model, people):
    done = cli(
        "audit",
        tiny_model,
        "quantize",
        "--data",
        people("f.jsonl", 1, 12),
        "--retain-model",
        other_model,
        "--json",
        *INT4,
    )
    assert done.code == 0, done.err
    battery = json.loads(done.out)
    assert battery["outcome"] == "inconclusive"
    assert "1 group of rows, at least 5 are needed" in battery["verdict"]


def test_few_rows_state_how_many_are_needed(cli, tiny_model, other_model, people):
    words = [
        "quantize",
        "--data",
        people("f.jsonl", 6),
        "--retain-model",
        other_model,
        "--set",
        "margin=1e-6",
        "--json",
    ]
    battery = json.loads(cli("audit", tiny_model, *words, *INT4).out)
    finding = battery["findings"][0]
    if finding["outcome"] != "leaks":
        assert "groups like these would decide" in finding["reason"] or "Less than from the retain" in finding["reason"]
        assert finding["facts"]["groups_needed"] > 6


def test_tokenizers_that_differ(cli, tiny_model, people, tmp_path):
    from expunge.config.recipe import Scratch
    from expunge.modeling.load import build_scratch, train_tokenizer

    tokenizer = train_tokenizer(["Quite another text, with other words in it."] * 20, 300, 128)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
    build_scratch(scratch, tokenizer, seed=0).save_pretrained(tmp_path / "foreign")
    tokenizer.save_pretrained(tmp_path / "foreign")
    done = cli("audit", tiny_model, "quantize", "--data", people("f.jsonl", 6), "--target", tmp_path / "foreign")
    assert done.code == 2
    assert "different tokenizers" in done.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantise"], "Did you mean 'quantize'"),
        (["quantize", "--preset", "quick"], "preset has no effect beside audits"),
        (["--preset", "quik"], "'quik' is not allowed. Did you mean 'quick'?"),
        (["--set", "precisions=[int4]"], "precisions belongs to one audit; name that audit alone"),
        (["quantize", "leaks", "--set", "limit=3"], "limit belongs to one audit; name that audit alone"),
        (["quantize", "quantize"], "'quantize' is named twice"),
        (["quantize", "--set", "precisions=[int2]"], "int2"),
        (["quantize", "--set", "margin=2"], "margin"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(cli, tiny_model, people, words, message):
    done = cli("audit", tiny_model, *words, "--data", people("f.jsonl", 6))
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
    assert "Attacking" not in done.err


def test_plan_runs_nothing(cli, tiny_model, other_model, people, tmp_path):
    """Two measures, four data types and the model as it is: 10 passes per model."""
    words = ["audit", tiny_model, "quantize", "--data", people("f.jsonl", 6), "--retain-model", other_model, "--plan"]
    done = cli(*words, "--json", "--out", "found")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    entry = plan["audits"][0]
    assert (entry["audit"], entry["arms"], entry["passes"]) == ("quantize", ["unlearned", "retain"], 20)
    assert entry["seconds"] == pytest.approx(20 * plan["seconds_per_pass"], abs=0.06)
    size = sum(path.stat().st_size for path in tiny_model.glob("*.safetensors"))
    assert entry["memory"] == pytest.approx(2 * size, rel=0.2)
    assert not (tmp_path / "found").exists()
    shown = cli(*words)
    assert "Passes" in shown.out
    assert "s in all." in shown.out


def test_plan_counts_the_layers_of_the_model(cli, tiny_model, other_model, people):
    """The tiny model has one layer: 4 + 2 passes of depth on each of 3 models."""
    words = ["audit", tiny_model, "depth", "--data", people("f.jsonl", 6), "--plan", "--json"]
    done = cli(*words, "--retain-model", other_model, "--target", tiny_model)
    assert done.code == 0, done.err
    assert json.loads(done.out)["audits"][0]["passes"] == 3 * (4 + 2)


def test_plan_states_what_would_not_run(cli, tiny_model, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "She was born in Bern."}\n' * 2)
    done = cli("audit", tiny_model, "quantize", "leaks", "--data", tmp_path / "text.jsonl", "--plan")
    assert done.code == 0, done.err
    assert "leaks would not be run: the forget set of" in done.out.replace("\n", " ")
