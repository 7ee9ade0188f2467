"""Measure any model with a benchmark, and compare it with a retain model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator

from expunge import distributed
from expunge.config.load import parse
from expunge.config.members import BenchmarkField
from expunge.config.recipe import DataConfig, Measure, Model, Prompt, Section, TofuData
from expunge.console import interruptible, note
from expunge.data.prepare import prepare_sets
from expunge.data.sets import RowSet, Sets
from expunge.errors import IncompatibleError, UserError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.load import load_tokenizer
from expunge.modeling.opening import check_same_tokens, comparable_facts, measuring_template, open_model
from expunge.modeling.saved_adapters import find_adapter
from expunge.modeling.tokenizers import fix_date
from expunge.records import ROLE_NAMES, BenchmarkResult
from expunge.rundir import RunDir
from expunge.runs.evaluator import Evaluator, Measured, stored_measurement

_ROW_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".gz")


class EvaluateConfig(Section):
    """Everything that an evaluation outside a run depends on; the same sections as in a recipe."""

    model: Model
    """The model to measure (`name`) and the retain model (`retain_model`); a string is the name."""
    benchmark: BenchmarkField
    """A name, or {name: ..., settings}."""
    data: DataConfig | None = None
    """Data of the benchmark; None for TOFU on the hub, or for benchmarks that bring their own questions."""
    prompt: Prompt | None = None
    """How questions become text; None for the tokenizer's chat template, or plain text where it has none."""
    evaluate: Measure = Measure()
    seed: int = Field(default=0, ge=0)
    """Seed of bootstrap intervals."""

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"name": str(value)} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.evaluate.engine == "vllm" and (self.model.revision or self.model.retain_model_revision):
            raise ValueError("evaluate.engine: vllm reads a model by its name alone; download the revision to a folder")
        if self.model.name is None:
            raise ValueError("model.name is missing: the model to measure")
        if self.model.adapter is not None:
            raise ValueError("model.adapter has no effect: an adapter is measured as it is, on its base model")
        if problem := self.evaluate.columns_problem([self.benchmark]):
            raise ValueError(f"evaluate.metrics: {problem}")
        return self

    @property
    def sets_config(self) -> DataConfig | None:
        """The data to read: TOFU where none is given and the benchmark needs some."""
        return TofuData() if self.data is None and self.benchmark.needs_sets else self.data


def evaluate(config: EvaluateConfig | Mapping[str, Any], *, out: str | Path | None = None) -> BenchmarkResult:
    """Measure a model, and compare it with a retain model where one is given.

    Args:
        config: The evaluation, such as {"model": "./my-model", "benchmark": "tofu", "data": {"name": "tofu"}}.
        out: Folder for the result and its per-sample rows; None writes nothing.

    Returns:
        The result; with `out` it is also in `results/model-<benchmark>.json`.

    Raises:
        UserError: Model, data, retain model or settings cannot be used; the message states what to change.

    Example:
        >>> evaluate({"model": "./my-model", "benchmark": {"name": "mmlu", "limit": 20}})  # doctest: +SKIP
    """
    if not isinstance(config, EvaluateConfig):
        config = parse(dict(config), EvaluateConfig, source="the settings of the evaluation")
    if out is not None:
        RunDir(Path(out)).create()
    distributed.start()
    with interruptible():
        return _evaluate(config, None if out is None else Path(out))


def _evaluate(config: EvaluateConfig, out: Path | None) -> BenchmarkResult:
    name, benchmark, model_config = str(config.model.name), config.benchmark, config.model
    tokenizer = load_tokenizer(name, model_config.revision, model_config.trust_remote_code)
    if config.evaluate.engine == "vllm":
        _refuse_adapters(model_config)
    data = config.sets_config
    sets = Sets("", RowSet("forget", ()), None) if data is None else prepare_sets(data)
    prompt = fix_date(measuring_template(tokenizer, config.prompt), out, name)
    retain_model, retain = model_config.retain_model, None
    if retain_model is not None and not retain_model.endswith(".json"):
        template, revision = measuring_template(tokenizer, prompt), model_config.retain_model_revision
        check_same_tokens(retain_model, ROLE_NAMES["retain"], model_config, template, revision)
    model = open_model(model_config, name, tokenizer, revision=model_config.revision)
    evaluator = Evaluator(
        sets,
        measuring_template(tokenizer, prompt, model),
        config.evaluate,
        seed=config.seed,
        cache=out / "evaluations" if out else None,
        dtype=getattr(torch, model_config.dtype),
        folder=out,
    )
    if retain_model is not None and retain_model.endswith(".json"):
        facts = comparable_facts(evaluator.template, causal_lm(model).config)
        retain = stored_measurement(benchmark, Path(retain_model), facts)
    on = f" on {sets.name}, prompt style {evaluator.template.prompt.style}" if sets.name else ""
    note(f"Measuring {name} with {benchmark.name}{on}.")
    measured = evaluator.measure(model, benchmark, name)
    del model
    if retain_model is not None and retain is None:
        retain = _measure_retain_model(config, evaluator)
    return evaluator.record(measured, benchmark, role="model", model=name, retain=retain)


def _measure_retain_model(config: EvaluateConfig, evaluator: Evaluator) -> Measured:
    name, revision = str(config.model.retain_model), config.model.retain_model_revision
    model = open_model(config.model, name, evaluator.template.tokenizer, revision=revision)
    return evaluator.measure(model, config.benchmark, f"the {ROLE_NAMES['retain']}")


def _refuse_adapters(config: Model) -> None:
    """Raise if vLLM would load a model without its adapter.

    Raises:
        IncompatibleError: The model or the retain model is an adapter.
    """
    for name, revision in ((config.name, config.revision), (config.retain_model, config.retain_model_revision)):
        adapter = None if name is None or name.endswith(".json") else find_adapter(name, revision)
        if adapter is not None:
            raise IncompatibleError(
                f"evaluate.engine: vllm would generate with {adapter.base}, without the adapter {name}.",
                fix="Leave the engine out, or merge the adapter with peft and give the full model.",
            )


def data_section(data: str | None, split: str | None, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the data section that a command line stands for; None where nothing is given.

    Args:
        data: TOFU's folder or hub id, a file of rows to forget, or 'synthetic'.
        split: TOFU's split.
        options: Further keys of the section.

    Raises:
        UserError: A split is given for data that has none.
    """
    if data is None and split is None and not options:
        return None
    if data is not None and (data == "synthetic" or data.endswith(_ROW_FILES)):
        if split is not None:
            raise UserError(f"split has no effect on {data}, which is not TOFU.", fix="Leave it out.")
        section = {"name": "synthetic"} if data == "synthetic" else {"name": "files", "forget": {"path": data}}
        return {**section, **options}
    named = {"path": data, "split": split}
    return {"name": "tofu", **{key: value for key, value in named.items() if value is not None}, **options}
