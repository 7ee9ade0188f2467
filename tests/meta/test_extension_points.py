"""The names that user-defined methods, metrics, benchmarks and audits are built from, with their signatures."""

import importlib
import inspect
import subprocess
import sys

import pytest

EXTENSION_POINTS = {
    "expunge.methods": {
        "Method": ["check_files", "needs", "loss", "objective", "prepare", "trainable", "adapter_parts", "apply"],
        "RetainMethod": ["forget_loss"],
        "Needs": [
            *("sets", "reference_logp", "reference", "aligned", "by_topic", "created", "adapter_parts"),
            *("forward", "trainings", "layers", "modules"),
        ],
        "Forward": ["last_layer", "padded", "joint", "compared", "stored", "store_bytes"],
        "FineTuning": ["train", "block_tokens"],
        "Objective": ["start", "after_backward", "after_step", "state", "load_state"],
        "Preparation": ["sets", "template", "folder", "seed", "open_target", "batch_tokens", "fine_tune"],
        "Start": ["model", "topics", "seed", "batch", "visits"],
        "Step": ["logp", "mean_logp", "token_logp", "nll", "kl", "reference_logp", "row_mean", "token_mean"],
        "LossTerms": [],
    },
    "expunge.metrics": {
        "metric": ["unit", "better", "range", "needs"],
        "Metric": [],
        "MetricSpec": ["name", "unit", "better", "range", "needs"],
    },
    "expunge.benchmarks": {
        "Benchmark": [
            *("labels", "metric_labels", "columns", "axes", "sections", "judge", "measured_settings", "plan", "run"),
            *("rows", "headlines", "check_retain_model", "read_stored"),
        ],
        "Plan": ["sets", "score", "generate", "facts"],
        "Headlines": ["headlines", "metrics"],
        "Measurement": ["result", "rows"],
        "SampleRow": [],
        "MeanSpec": ["how", "better", "needs", "unit"],
        "mean_value": ["scores", "groups", "spec", "resamples", "seed"],
        "Sets": ["name", "forget", "retain", "holdout", "evaluation", "sensitive"],
        "RowSet": ["name", "rows"],
        "Session": ["score", "generate", "gradient_norms"],
        "ScoreRequest": ["set", "index", "what", "question", "answer", "raw", "detail"],
        "GenerationRequest": ["set", "index", "question", "max_new_tokens", "what", "raw", "turns", "prefix"],
        "TokenScores": ["logp", "top1", "mean", "variance"],
        "Key": [],
        "Label": ["title", "explain", "unit", "better", "needs_retain_model"],
        "Axes": ["forget", "utility", "forget_limit"],
        "Section": ["kind", "title", "set"],
        "Judgement": ["benchmark", "title", "forgetting", "utility", "metrics", "reasons", "rules", "limits"],
        "Conclusion": ["outcome", "phrase"],
        "Value": ["point", "low", "high", "n", "n_missing", "how", "unit", "better", "needs", "extra"],
    },
    "expunge.audits": {
        "Audit": ["stages", "attack", "workload", "calibrate", "findings", "needs", "uses", "arms"],
        "Arm": ["session", "hooked_session", "session_with", "edited", "trainable_copy", "other", "utility"],
        "Attempt": ["name", "rows", "measure", "cost", "utility", "not_counted", "facts"],
        "Workload": ["passes", "models", "training"],
        "Rule": ["margin", "level", "utility_loss"],
        "Cost": ["rows", "steps", "passes", "seconds"],
        "Finding": ["audit", "attempt", "measure", "after", "effect", "excess", "residual", "outcome"],
        "AUDITED": [],
        "BEFORE": [],
        "CONTROLS": [],
        "SampleRow": [],
        "Session": ["score", "generate"],
        "ScoreRequest": ["set", "index", "what", "question", "answer"],
        "GenerationRequest": ["set", "index", "question", "max_new_tokens"],
        "AuditResult": ["audit", "arms", "values", "findings", "verdict", "notes", "settings"],
        "Value": ["point"],
    },
}
"""Package -> public name -> parameters of a function, or fields and methods of a class that users rely on."""

HOOKS = {
    "Method": {
        "loss": ["step"],
        "objective": ["plan_steps", "steps_per_epoch"],
        "prepare": ["preparation"],
        "trainable": ["model"],
        "apply": ["model", "preparation"],
    },
    "RetainMethod": {"forget_loss": ["step"]},
    "Benchmark": {
        "plan": ["sets"],
        "run": ["session", "plan"],
        "rows": ["plan", "scores", "generations"],
        "headlines": ["rows", "retain_model", "resamples", "seed"],
        "judge": ["target", "unlearned", "retain", "seed"],
    },
    "Audit": {
        "stages": ["sets"],
        "attack": ["arm", "stage"],
        "calibrate": ["attempts"],
        "findings": ["attempts", "rule"],
    },
}
"""Class -> method that users override -> its parameters."""

NAMES = [(package, name) for package, names in EXTENSION_POINTS.items() for name in names]


@pytest.mark.parametrize("package", EXTENSION_POINTS)
def test_packages_export_these_names(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(EXTENSION_POINTS[package])
    assert dir(module) == sorted(EXTENSION_POINTS[package])
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_members_and_parameters(package, name):
    """Users depend on these: a change is a change of the API."""
    value = getattr(importlib.import_module(package), name)
    expected = EXTENSION_POINTS[package][name]
    if inspect.isfunction(value):
        assert list(inspect.signature(value).parameters) == expected
    elif isinstance(value, type):
        available = {*dir(value), *getattr(value, "model_fields", ()), *getattr(value, "__dataclass_fields__", ())}
        assert set(expected) <= available


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_names_are_documented(package, name):
    value = getattr(importlib.import_module(package), name)
    if inspect.isfunction(value) or (isinstance(value, type) and value is not dict):
        assert inspect.getdoc(value)


@pytest.mark.parametrize(("cls", "hook"), [(cls, hook) for cls, hooks in HOOKS.items() for hook in hooks])
def test_signatures_of_hooks(cls, hook):
    package = next(package for package, names in EXTENSION_POINTS.items() if cls in names)
    function = getattr(getattr(importlib.import_module(package), cls), hook)
    assert list(inspect.signature(function).parameters)[1:] == HOOKS[cls][hook]


def test_packages_import_nothing_heavy():
    """`expunge ls` reads these packages, and must start without the seconds that numpy and torch take."""
    code = (
        f"import sys, {', '.join(EXTENSION_POINTS)}; dir(expunge.benchmarks);"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bases_of_members_do_not_need_torch():
    """A file with a method is explained without importing torch."""
    code = (
        "import sys; from expunge.methods import Method, RetainMethod, Needs, Objective, Preparation, Start;"
        "from expunge.metrics import metric; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
