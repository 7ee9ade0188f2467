"""Every mistake of a user ends in a message that names it and what to do, and in exit code 2."""

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"

SETTINGS = [
    (["quickstart", "method.betta=1"], ["method.betta", "Did you mean 'beta'?"]),
    (["quickstart", "train.lr=fast"], ["train.lr", "'fast'"]),
    (["quickstart", "trian.lr=1", "seed=no"], ["2 problems", "trian", "Did you mean 'train'?", "seed"]),
    (["quickstrat"], ["quickstrat", "Did you mean 'quickstart'?"]),
    (["quickstart", "method=npoo"], ["npoo", "Did you mean 'npo'?"]),
    (["missing.yaml"], ["missing.yaml", "does not exist"]),
    (["quickstart", "seed"], ["'seed' is not an override", "key.path=value"]),
    (["quickstart", "seed.x=1"], ["seed.x", "single value"]),
    (["quickstart", "data.name=tufo"], ["data.name", "tufo", "tofu"]),
    (["quickstart", "model.lora.targets=5"], ["model.lora.targets: "]),
]


@pytest.mark.parametrize(("words", "expected"), SETTINGS)
@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_settings_are_named(cli, command, words, expected):
    outcome = cli(command, *words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("Error: ")
    assert "Traceback" not in outcome.err
    for part in expected:
        assert part in outcome.err


def test_malformed_yaml_is_located(cli, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\nmodel: {name: [}\n")
    outcome = cli("check", "bad.yaml")
    assert outcome.code == 2
    assert "bad.yaml" in outcome.err
    assert "line 2, column" in outcome.err


def test_a_key_given_twice_is_refused(cli, tmp_path):
    (tmp_path / "twice.yaml").write_text("name: x\nname: y\n")
    outcome = cli("check", "twice.yaml")
    assert outcome.code == 2
    assert "duplicate key 'name'" in outcome.err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.trainer_extra.learnin_rate=1", ["train.trainer_extra.learnin_rate", "learning_rate"]),
        ("train.trainer_extra.learning_rate=1", ["already set by the recipe"]),
        ("train.optimizer=adamm", ["train.optimizer", "adamm"]),
        ("train.report_to=[wandbb]", ["train.report_to", "Did you mean 'wandb'?"]),
        ("model.frozen_dtype=bfloat16", ["model.frozen_dtype has no effect", "needs no copy of the target"]),
    ],
)
def test_training_arguments_are_refused_before_anything_is_trained(cli, recipe_file, override, expected):
    """`run` itself refuses them: the recipe's folder of runs is never made."""
    outcome = cli("run", recipe_file, override)
    assert outcome.code == 2
    for part in expected:
        assert part in outcome.err
    assert not Path("runs").exists()


def test_missing_model_folder(cli, recipe_file):
    outcome = cli("run", recipe_file, "model.name=./nowhere")
    assert outcome.code == 2
    assert "./nowhere does not exist" in outcome.err


def test_pickled_weights_are_refused(cli, recipe_file, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for command in ("check", "run"):
        outcome = cli(command, recipe_file, f"model.name={folder}")
        assert outcome.code == 2, command
        assert "pickle" in outcome.out + outcome.err, command


def test_truncated_weights_are_refused(cli, recipe_file, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in ("check", "run"):
        outcome = cli(command, recipe_file, f"model.name={folder}")
        assert outcome.code == 2, command
        assert "damaged or not safetensors" in outcome.out + outcome.err, command


def test_a_file_in_the_place_of_the_runs_folder(cli, recipe_file, tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    outcome = cli("run", recipe_file, "--runs", "runs/deep")
    assert outcome.code == 2
    assert "cannot write" in outcome.err
    assert "--runs" in outcome.err


def test_missing_data_path(cli, recipe_file):
    outcome = cli("run", recipe_file, "data.forget.path=gone.jsonl")
    assert outcome.code == 2
    assert "gone.jsonl does not exist" in outcome.err


def test_unknown_command_and_option(cli):
    outcome = cli("chek", "quickstart")
    assert outcome.code == 2
    assert "Did you mean 'check'" in outcome.err
    assert cli("ls", "--nope").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["show", "simmnpo"], "Did you mean 'simnpo'?"),
        (["ls", "method5"], "Did you mean 'methods'?"),
        (["report", "nowhere"], "nowhere does not exist"),
        (["score-log", "nowhere.json"], "nowhere.json does not exist"),
        (["evaluate", "./nowhere", "--data", "synthetic"], "./nowhere does not exist"),
        (["evaluate", "./x", "--set", "bla=1", "--data", "synthetic"], "there is no setting 'bla'"),
        (["evaluate", "./x", "--data", "synthetic", "--split", "forget10"], "split has no effect"),
        (["init", "."], "is a folder"),
    ],
)
def test_other_commands_say_what_is_wrong(cli, words, expected):
    outcome = cli(*words)
    assert outcome.code == 2
    assert expected in outcome.err


def test_text_of_users_is_not_markup(cli):
    outcome = cli("show", "[red]x[/red]")
    assert "'[red]x[/red]'" in outcome.err


METHOD = "from expunge.methods import Method\n\nclass {name}(Method):\n    pass\n\n"
METRIC = "from expunge.metrics import metric\n\n@metric{arguments}\ndef f(x):\n    return x\n"
USER_FILES = {
    "two classes": (
        METHOD.format(name="One") + METHOD.format(name="Two"),
        "my.py defines 2 members (the method One, the method Two), but a file must define exactly one.",
    ),
    "two kinds": (
        METHOD.format(name="One") + "from expunge.audits import Audit\n\nclass Two(Audit):\n    pass\n",
        "my.py defines 2 members (the method One, the audit Two)",
    ),
    "none": ("from expunge.methods import Method\n", "my.py defines no method, benchmark, audit or metric. Define one"),
    "private": (METHOD.format(name="_One"), "my.py defines no method, benchmark, audit or metric."),
    "syntax": ("x = 1\nclass A(:\n", "my.py, line 2 is not valid Python: invalid syntax."),
    "import": ("import nowhere_at_all\n", "my.py cannot be imported: ModuleNotFoundError: No module named"),
    "exit": ("import sys\nsys.exit(0)\n", "my.py cannot be imported: SystemExit: 0"),
    "bare decorator": (
        METRIC.format(arguments=""),
        "my.py cannot be imported: TypeError: metric() takes 0 positional arguments",
    ),
    "needs": (
        METRIC.format(arguments='(better="", range=(0, 1), needs=("nll", "answer"))'),
        "the metric f needs the columns nll, answer, but its arguments differ: too many positional arguments",
    ),
    "needs as a string": (
        METRIC.format(arguments='(better="", range=(0, 1), needs="nll")'),
        "needs of the metric f must be a tuple of columns, such as ('nll',)",
    ),
    "missing": (None, "my.py does not exist. Give the path of a Python file."),
}


@pytest.mark.parametrize("case", USER_FILES)
def test_user_files_are_refused_with_one_sentence(cli, tmp_path, recipe_file, case):
    content, expected = USER_FILES[case]
    if content is not None:
        (tmp_path / "my.py").write_text(content)
    shown = cli("show", "my.py")
    assert (shown.code, shown.out) == (2, "")
    assert "Traceback" not in shown.err
    assert expected in shown.err
    used = cli("check", recipe_file, "method=my.py")
    assert used.code == 2
    assert expected in used.err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method={}/my_metric.py", "my_metric.py defines the metric containment, not a method."),
        ("method={}/my_benchmark.py", "my_benchmark.py defines the benchmark Recall, not a method."),
        ("evaluate.benchmarks=[{}/my_audit.py]", "my_audit.py defines the audit Insist, not a benchmark."),
        ("evaluate.metrics=[{}/my_method.py]", "my_method.py defines the method BoundedAscent, not a metric."),
        ("evaluate.metrics=[rouge_1_f2]", "no metric is called 'rouge_1_f2'. Did you mean 'rouge_1_f1'?"),
        ("evaluate.metrics=[forget_quality]", "'forget_quality' is computed from full sets, not row by row."),
        ("evaluate.metrics=[rouge_1_f1]", "'rouge_1_f1' needs the columns answer, generation, which no benchmark has."),
        ("evaluate={{benchmarks: [muse], metrics: [membership_loss]}}", "Columns of muse: set, index, id, group"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_files_and_metrics_of_the_wrong_kind(cli, recipe_file, command, override, expected):
    outcome = cli(command, recipe_file, override.format(EXAMPLES))
    assert outcome.code == 2
    assert expected in outcome.err


def test_missing_columns_are_named_after_the_first_measurement(cli, recipe_file, tmp_path):
    """A benchmark that does not declare its columns: the target's rows show them."""
    text = (EXAMPLES / "my_benchmark.py").read_text()
    start, end = text.index("    def columns"), text.index("    def plan")
    (tmp_path / "bare.py").write_text(text[:start] + text[end:])
    evaluate = "evaluate={benchmarks: [{name: ./bare.py, max_new_tokens: 2}], metrics: [membership_loss]}"
    outcome = cli("run", recipe_file, evaluate)
    assert outcome.code == 2
    assert "'membership_loss' needs the columns nll, and the rows of bare lack nll." in outcome.err
    assert "Columns of bare: set, index, group, question, answer, generation, correct." in outcome.err


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("max forget_recal", "'forget_recal' is not a headline of these benchmarks. Did you mean 'forget_recall'?"),
        (
            "max retain_recall subject to forget_reca <= 0.1",
            "'forget_reca' is not a headline of these benchmarks. Did you mean 'forget_recall'?",
        ),
        ("utility_at_quality", "'utility_at_quality' is not a rule. Write 'max NAME', 'min NAME' or"),
        ("forget_quality", "'forget_quality' is not a rule. Write"),
        ("max forget_recall subject to retain_recall >= x", "is not a rule"),
    ],
)
def test_selection_rules(cli, recipe_file, command, select, expected):
    evaluate = f"evaluate={{benchmarks: [{EXAMPLES}/my_benchmark.py], select: {select}}}"
    outcome = cli(command, recipe_file, evaluate)
    assert outcome.code == 2
    assert expected in outcome.err
    assert not Path("runs").exists()


def test_a_rule_of_a_sweep_that_names_an_unknown_headline(cli, recipe_file, tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        f"name: s\nrecipe: mine.yaml\nset: {{evaluate.benchmarks: [{EXAMPLES}/my_benchmark.py]}}\n"
        "over: {seed: [1, 2]}\nobjectives: {forget_recall: down}\nselect: min forget_recal\n"
    )
    outcome = cli("sweep", "sweep.yaml")
    assert outcome.code == 2
    assert "'forget_recal' is not a headline of these benchmarks. Did you mean 'forget_recall'?" in outcome.err
