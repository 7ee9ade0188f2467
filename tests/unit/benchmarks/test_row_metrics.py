"""Metrics that a recipe selects: on rows by hand, on the rows of every packaged benchmark, and everything refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from expunge import registry
from expunge.benchmarks import Benchmark, Headlines, Label, Plan, RowSet, Sets, Value
from expunge.benchmarks.custom import Custom
from expunge.benchmarks.familiarity.benchmark import ANCHORS, FORGET, PASSAGES, RETAIN, Familiarity
from expunge.benchmarks.mt_bench import MtBench
from expunge.benchmarks.mt_bench.questions import Question
from expunge.benchmarks.muse import Muse
from expunge.benchmarks.shared.row_metrics import row_metric_labels, row_metrics
from expunge.benchmarks.tofu import Tofu
from expunge.commands.evaluate import EvaluateConfig
from expunge.config.load import load_recipe, parse, parse_recipe
from expunge.config.recipe import Evaluate, Prompt, Scratch, SyntheticData
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Row
from expunge.errors import ConfigError, DataError
from expunge.metrics.intervals import mean_interval
from expunge.runs.context import prepare
from expunge.runs.results import without_text

ROWS = [
    {"set": "forget", "group": "a", "answer": "In Bern.", "generation": "She is in Bern.", "nll": 1.0},
    {"set": "forget", "group": "a", "answer": "In Rome.", "generation": "No idea", "nll": 3.0},
    {"set": "forget", "group": "b", "answer": "In Oslo.", "generation": None, "nll": 2.0},
    {"set": "retain", "group": "c", "answer": "In Prague.", "generation": "In Prague.", "nll": None},
]
METRIC = """\
from expunge.metrics import metric

@metric(unit="nats", better="higher", range=(0.0, 9.0), needs=("nll",))
def doubled(nll):
    \"\"\"Twice the loss.\"\"\"
    return {value}
"""


class Undeclared(Benchmark):
    """A user's benchmark that does not declare its columns."""


class Declared(Benchmark):
    """A user's benchmark that declares its columns."""

    def columns(self):
        """Return the columns of ROWS."""
        return tuple(ROWS[0])


def compute(names, rows=ROWS, benchmark=None, reported=None, **settings):
    settings = {"withheld": False, "resamples": 0, "seed": 0, **settings}
    return row_metrics(names, benchmark or Undeclared(), rows, reported or {}, **settings)


@pytest.fixture
def metric_file(tmp_path: Path):
    """`metric_file(value)`: a file with the metric `doubled`, which returns the value of this expression."""

    def write(value: str = "2 * nll", name: str = "mine.py") -> str:
        (tmp_path / name).write_text(METRIC.replace("{value}", value))
        return str(tmp_path / name)

    return write


def test_mean_over_the_rows_that_have_the_columns():
    values = compute(["membership_loss"])
    assert (values["forget/membership_loss"].point, values["forget/membership_loss"].n) == (2.0, 3)
    assert values["retain/membership_loss"].point is None
    assert values["retain/membership_loss"].n_missing == 1
    assert values["retain/membership_loss"].needs == "rows with values in the columns nll"


def test_texts_and_numbers_arrive_in_the_order_of_needs():
    """zlib: nll / bytes of the compressed answer."""
    import zlib

    expected = np.mean([row["nll"] / len(zlib.compress(row["answer"].encode())) for row in ROWS[:3]])
    value = compute(["membership_zlib"])["forget/membership_zlib"]
    assert value.point == pytest.approx(expected)
    assert (value.unit, value.better) == ("nats per byte", "retain")


def test_rows_without_a_generation_are_counted_as_missing():
    """ROUGE-1 F1 of 'In Bern.' and 'She is in Bern.': precision 2/4, recall 1, F1 = 2/3; of the second row 0."""
    values = compute(["rouge_1_f1"])
    assert values["forget/rouge_1_f1"].point == pytest.approx(1 / 3)
    assert (values["forget/rouge_1_f1"].n, values["forget/rouge_1_f1"].n_missing) == (2, 1)
    assert values["retain/rouge_1_f1"].point == 1.0


def test_intervals_are_over_groups():
    """Five groups of two equal rows with values 1 to 5: the t interval of five values around 3."""
    rows = [{"set": "forget", "group": f"{i // 2}", "nll": 1.0 + i // 2} for i in range(10)]
    value = compute(["membership_loss"], rows, resamples=200)["forget/membership_loss"]
    expected = mean_interval([1, 2, 3, 4, 5], range(5))
    assert (value.low, value.high) == pytest.approx((expected.low, expected.high))
    assert "5 groups" in value.how
    assert compute(["membership_loss"], rows, resamples=0)["forget/membership_loss"].low is None


def test_a_row_without_a_group_is_its_own():
    rows = [{"set": "forget", "nll": value} for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert "5 groups" in compute(["membership_loss"], rows, resamples=50)["forget/membership_loss"].how


def test_rows_without_sets_have_the_metric_without_a_prefix():
    assert list(compute(["membership_loss"], [{"nll": 1.0}])) == ["membership_loss"]


def test_lists_with_a_missing_entry_are_missing():
    rows = [{"set": "x", "nll": 0.0, "perturbed_nll": wrong} for wrong in ([0.0], [None], [])]
    value = compute(["option_probability"], rows)["x/option_probability"]
    assert (value.point, value.n, value.n_missing) == (0.5, 1, 2)


def test_values_that_are_not_finite_are_missing(metric_file):
    value = compute([metric_file("[float('inf'), 5.0, float('nan')]")])["forget/doubled"]
    assert (value.point, value.n, value.n_missing) == (5.0, 1, 2)


def test_a_users_file_and_its_label(metric_file):
    path = metric_file()
    value = compute([path])["forget/doubled"]
    assert (value.point, value.unit, value.better) == (4.0, "nats", "higher")
    label = Label(title="doubled", explain="Twice the loss.", unit="nats", better="higher")
    assert row_metric_labels([path]) == {"doubled": label}


def test_a_metric_of_the_benchmark_itself_is_not_computed_again(metric_file):
    reported = {"forget/membership_loss": Value(point=7.0)}
    assert list(compute(["membership_loss"], reported=reported)) == ["retain/membership_loss"]
    with pytest.raises(DataError, match=r"mine\.py defines 'doubled', but .* reports forget/doubled itself\. Rename"):
        compute([metric_file()], reported={"forget/doubled": Value(point=7.0)})


def test_texts_of_sensitive_data_are_not_compared():
    """Their hashes would give a number that means nothing; losses are numbers still."""
    values = compute(["rouge_1_f1", "membership_loss"], [without_text(row) for row in ROWS], withheld=True)
    assert values["forget/rouge_1_f1"].needs == "texts, which are not stored for sensitive data"
    assert values["forget/membership_loss"].point == 2.0


def test_missing_columns_of_a_benchmark_that_does_not_declare_them():
    with pytest.raises(DataError) as caught:
        compute(["truth_probability"])
    message = str(caught.value)
    assert "'truth_probability' needs the columns truth_ratio" in message
    assert "lack truth_ratio. Columns of test_row_metrics: set, group, answer, generation, nll." in message


def test_a_metric_for_another_benchmark_is_left_out():
    assert compute(["truth_probability"], benchmark=Declared()) == {}
    assert compute(["truth_probability"], []) == {}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("1 / 0", "failed on the set 'forget' of test_row_metrics: ZeroDivisionError: division by zero"),
        ("nll.sum()", r"returned shape \(\) on the set 'forget'.*shape \(3,\)"),
        ("nll[:2]", r"returned shape \(2,\) on the set"),
        ("['a'] * 3", "failed on the set 'forget' of test_row_metrics: ValueError"),
    ],
)
def test_a_function_that_does_not_give_one_number_per_row(metric_file, value, problem):
    with pytest.raises(DataError, match=problem):
        compute([metric_file(value)])


def synthetic() -> Sets:
    return prepare_sets(SyntheticData(num_people=4, forget_fraction=0.5))


def rows_of(name: str):
    """A benchmark, and rows that it builds where nothing was scored or generated."""
    if name in {"tofu", "custom"}:
        benchmark = {"tofu": Tofu, "custom": Custom}[name]()
        return benchmark, benchmark.rows(benchmark.plan(synthetic()), {}, {})
    row = Row("1", "Who?", "She.", "a")
    if name == "muse":
        return Muse(), Muse().rows(Plan({"verbmem/forget": RowSet("verbmem/forget", (row,))}), {}, {})
    if name == "familiarity":
        sets = {part: RowSet(part, (row,)) for part in (ANCHORS, PASSAGES, FORGET, RETAIN)}
        return Familiarity(), Familiarity().rows(Plan(sets), {}, {})
    question = Question(id="1", category="writing", turns=("a", "b"))
    return MtBench(), [MtBench()._row(0, 0, question, {})]


@pytest.mark.parametrize("name", ["tofu", "custom", "muse", "familiarity", "mt_bench"])
def test_declared_columns_are_those_of_the_rows(name):
    """multiple choice: in the tests of lm-eval."""
    benchmark, rows = rows_of(name)
    assert list(rows[0]) == list(benchmark.columns())


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("tofu", ["rouge_1_f1", "truth_probability", "membership_loss", "membership_gradient_norm"]),
        ("custom", ["rouge_1_f1", "membership_loss", "membership_gradient_norm"]),
        ("muse", ["rouge_1_f1"]),
    ],
)
def test_metrics_on_the_rows_of_packaged_benchmarks(name, metrics):
    benchmark, rows = rows_of(name)
    numbers = {"nll": 1.0, "gradient_norm": 2.0, "truth_ratio": 3.0}
    filled = [
        {**row, **{key: value for key, value in numbers.items() if key in row}, "generation": row["answer"]}
        for row in rows
    ]
    values = row_metrics(metrics, benchmark, filled, {}, withheld=False, resamples=10, seed=0)
    expected = {
        "rouge_1_f1": 1.0,
        "truth_probability": 0.25,
        "membership_loss": 1.0,
        "membership_gradient_norm": 2.0,
    }
    sets = dict.fromkeys(row["set"] for row in rows)
    assert {key: value.point for key, value in values.items()} == {
        f"{part}/{metric}": pytest.approx(expected[metric]) for metric in metrics for part in sets
    }


def test_columns_that_settings_add():
    assert "semantic_similarity" in Custom(embedding="x").columns()
    assert {"generated_logp", "generated_tokens"} <= set(Custom(fluency_model="x").columns())


def test_every_packaged_row_metric_takes_the_columns_of_a_packaged_benchmark():
    columns = {*Tofu().columns(), *Custom().columns()}
    for name in registry.row_metrics():
        assert set(registry.get("metric", name).spec.needs) <= columns


@pytest.mark.parametrize(
    ("metrics", "problems"),
    [
        (["rouge_1_f2"], ["no metric is called 'rouge_1_f2'", "Did you mean 'rouge_1_f1'?"]),
        (["model_utility"], ["'model_utility' is computed from full sets, not row by row. Allowed: ", "rouge_1_f1, "]),
        (["./nowhere.py"], ["evaluate.metrics.0: nowhere.py does not exist"]),
        (["rouge_1_f1", "rouge_1_f1"], ["two metrics are called 'rouge_1_f1'"]),
        ([5], ["evaluate.metrics.0"]),
        (
            ["rouge_1_f1", "membership_min_k"],
            ["evaluate.metrics.1: 'membership_min_k' is computed from full sets"],
        ),
    ],
)
def test_the_recipe_names_metrics_that_cannot_be_selected(metrics, problems):
    with pytest.raises(ConfigError) as caught:
        load_recipe("quickstart", [f"evaluate.metrics={metrics}"])
    for problem in problems:
        assert problem in str(caught.value)


def test_columns_that_no_benchmark_has_are_found_before_anything_is_measured():
    section = {"benchmarks": ["muse", {"name": "mmlu", "data": "hub"}], "metrics": ["membership_loss"]}
    with pytest.raises(ConfigError) as caught:
        parse(section, Evaluate, "the settings")
    message = str(caught.value)
    assert "metrics: 'membership_loss' needs the columns nll, which no benchmark has." in message
    assert "Columns of muse: set, index" in message
    assert "Columns of mmlu: set, index" in message
    both = {**section, "benchmarks": ["muse", "custom"]}
    assert parse(both, Evaluate, "the settings").metrics == ["membership_loss"]
    with pytest.raises(ConfigError, match="which no benchmark has"):
        parse({"metrics": ["membership_loss"]}, Evaluate, "the settings")


def test_evaluate_checks_the_columns_too():
    config = {"model": "./m", "benchmark": "muse", "evaluate": {"metrics": ["membership_loss"]}}
    with pytest.raises(ConfigError, match=r"evaluate\.metrics: 'membership_loss' needs the columns nll"):
        parse(config, EvaluateConfig, "the settings of the evaluation")


def test_a_file_without_needs_is_refused(tmp_path):
    path = tmp_path / "whole.py"
    path.write_text(METRIC.replace(', needs=("nll",)', "").replace("{value}", "0"))
    with pytest.raises(ConfigError, match="add the columns that doubled is computed from to its decorator"):
        load_recipe("quickstart", [f"evaluate.metrics=[{path}]"])


def test_a_recipe_with_metrics_loads_back(metric_file):
    recipe = load_recipe("quickstart", [f"evaluate.metrics=[rouge_1_f1, {metric_file()}]"])
    assert recipe.resolved()["evaluate"]["metrics"][0] == "rouge_1_f1"
    assert parse_recipe(recipe.resolved()).fingerprint() == recipe.fingerprint()
    assert recipe.fingerprint() != load_recipe("quickstart").fingerprint()


def test_a_changed_metric_file_is_another_run(metric_file, tmp_path):
    section = {"steps": 1, "lr": 1e-3}
    fingerprints = set()
    for value in ("nll", "2 * nll", "nll"):
        recipe = parse_recipe(
            {
                "name": "mine",
                "model": {"scratch": {"vocab_size": 300, "max_length": 64}},
                "data": {"name": "synthetic", "num_people": 4, "forget_fraction": 0.5},
                "target": section,
                "method": "graddiff",
                "train": section,
                "evaluate": {"benchmarks": ["tofu"], "metrics": [metric_file(value)]},
            }
        )
        fingerprints.add(prepare(recipe, tmp_path / "runs").fingerprint)
    assert len(fingerprints) == 2


def test_the_evaluator_adds_metrics_to_the_result():
    from expunge.benchmarks.base import GenerationRequest
    from expunge.config.recipe import Measure
    from expunge.data.templates import Template
    from expunge.modeling.load import build_scratch, train_tokenizer
    from expunge.runs.evaluator import Evaluator

    class Asks(Benchmark):
        """Generates one answer per forget row."""

        def plan(self, sets):
            return Plan({"forget": sets.forget}, generate=[GenerationRequest("forget", 0, "Who?", 3)])

        def rows(self, plan, scores, generations):
            text = generations["forget", 0, "answer"]
            return [{"set": "forget", "index": 0, "group": "a", "answer": text or "x", "generation": text or "x"}]

        def headlines(self, rows, retain_model, resamples, seed):
            return Headlines()

    tokenizer = train_tokenizer(["Who? She."] * 20, 300, 96)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=96)
    sets = Sets("s", RowSet("forget", (Row("1", "Who?", "She.", "a"),)), None)
    config = Measure(bootstrap=0, metrics=["verbatim_memorization"])
    evaluator = Evaluator(sets, Template(tokenizer, Prompt(), 96), config)
    measured = evaluator.measure(build_scratch(scratch, tokenizer, seed=0), Asks(), "it")
    result = evaluator.record(measured, Asks(), role="model", model="it", retain=None)
    assert list(result.metrics) == ["forget/verbatim_memorization"]
    assert "verbatim_memorization" in result.labels
