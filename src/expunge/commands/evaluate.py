"""Measures one model with one benchmark, outside a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import model_validator

from expunge import distributed, registry
from expunge.config.load import parse
from expunge.config.recipe import DataConfig, Evaluate, Model, Prompt, Section
from expunge.console import interruptible, note
from expunge.data.prepare import prepare_sets
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import UserError
from expunge.modeling.fsdp import load_on_device
from expunge.modeling.load import check_tokenizer, context_length, device_of, load_model, load_tokenizer
from expunge.records import BenchmarkResult
from expunge.rundir import RunDir
from expunge.runs.evaluator import Evaluator, Measured, make_result, store

_FILES = (".json", ".jsonl", ".csv", ".parquet", ".txt")


class Evaluation(Section):
    """Everything that one evaluation depends on; the same sections as in a recipe."""

    model: Model
    data: DataConfig | None
    """None for benchmarks that bring their questions along."""
    prompt: Prompt | None = None
    evaluate: Evaluate

    @model_validator(mode="after")
    def _engine_reads_what_is_measured(self) -> Self:
        if self.evaluate.engine == "vllm" and (self.model.revision or self.model.retain_model_revision):
            raise ValueError("evaluate.engine: vllm reads a model by its name alone; download the revision to a folder")
        return self


def evaluate(
    model: str | Path,
    benchmark: str = "tofu",
    *,
    data: str | Path | None = None,
    split: str | None = None,
    retain_model: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    prompt: Prompt | Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> BenchmarkResult:
    """Measure a model, and compare it with a retain model where one is given.

    Args:
        model: Folder or hub id.
        benchmark: Name of a benchmark, or path of a Python file with one.
        data: TOFU's folder or hub id, a file of rows to forget, or 'synthetic'; None for TOFU on the hub.
        split: TOFU's split; by default forget10.
        retain_model: Retain model (folder or hub id), or its stored evaluation (.json).
        settings: The benchmark's settings.
        prompt: How questions become text; None for the tokenizer's chat template, or plain where it has none.
        options: Further settings of the sections 'model', 'data' and 'evaluate', as in a recipe.
        out: Folder for the result and its per-sample records; None writes nothing.
        seed: Seed of the bootstrap.

    Returns:
        The result; with `out` it is also in `results/model-<benchmark>.json`.

    Raises:
        UserError: Model, data, retain model or settings have to be put right first.
    """
    config = parse(
        {
            "model": {
                "name": str(model),
                "retain_model": retain_model and str(retain_model),
                **_option(options, "model"),
            },
            "data": data_section(benchmark, data, split, _option(options, "data")),
            "prompt": prompt,
            "evaluate": {
                "benchmarks": [{"name": benchmark, **(settings or {})}],
                **_option(options, "evaluate"),
            },
        },
        Evaluation,
        source="the settings of the evaluation",
    )
    if out is not None:
        RunDir(Path(out)).create()
    distributed.start()
    with interruptible():
        return _evaluate(config, None if out is None else Path(out), seed)


def _evaluate(config: Evaluation, out: Path | None, seed: int) -> BenchmarkResult:
    name, chosen = str(config.model.name), config.evaluate.benchmarks[0]
    tokenizer = load_tokenizer(name, config.model.revision, config.model.trust_remote_code)
    sets = Sets("", RowSet("forget", ()), None) if config.data is None else prepare_sets(config.data)
    loaded = _open(config, name, config.model.revision)
    check_tokenizer(loaded, tokenizer, name)
    prompt = config.prompt or Prompt(style="chat" if tokenizer.chat_template else "plain")
    template = Template(tokenizer, prompt, max_length=context_length(loaded.config))
    evaluator = Evaluator(
        sets,
        template,
        config.evaluate.batch_tokens,
        cache=out / "evaluations" if out else None,
        dtype=getattr(torch, config.model.dtype),
        engine=config.evaluate.engine,
    )
    on = f" on {sets.name}, prompt style {prompt.style}" if sets.name else ""
    note(f"Measuring {name} with {chosen.name}{on}.")
    measured = evaluator.measure(loaded, chosen, name)
    del loaded
    result = make_result(
        chosen,
        measured,
        role="model",
        model=name,
        retain_model=_retain_model_rows(config, evaluator, measured),
        resamples=config.evaluate.bootstrap,
        seed=seed,
    )
    return result if out is None else store(out, f"model-{chosen.name}", result, measured.rows)


def _retain_model_rows(config: Evaluation, evaluator: Evaluator, measured: Measured) -> list[dict[str, Any]] | None:
    name, benchmark = config.model.retain_model, config.evaluate.benchmarks[0]
    if name is None:
        return None
    if name.endswith(".json"):
        rows, settings = benchmark.read_stored(Path(name))
    else:
        other = evaluator.measure(
            _open(config, name, config.model.retain_model_revision), benchmark, "the retain model"
        )
        rows, settings = other.rows, other.settings
    benchmark.check_retain_model(measured.rows, rows, measured.settings, settings)
    return list(rows)


def _open(config: Evaluation, name: str, revision: str | None) -> Any:
    dtype = getattr(torch, config.model.dtype)
    return load_on_device(
        lambda device: load_model(name, config=config.model, revision=revision, dtype=dtype, device=device),
        device_of(config.model),
    )


def _option(options: Mapping[str, Mapping[str, Any]] | None, section: str) -> dict[str, Any]:
    return dict((options or {}).get(section, {}))


def data_section(
    benchmark: str | None, data: str | Path | None, split: str | None, options: dict[str, Any]
) -> dict[str, Any] | None:
    """The data section, unless the benchmark has its own questions and none is given."""
    given = data is not None or split is not None or options
    if not given and benchmark in registry.names("benchmark") and not registry.get("benchmark", benchmark).needs_sets:
        return None
    return {**_data(data, split), **options}


def _data(data: str | Path | None, split: str | None) -> dict[str, Any]:
    """The data section that a path stands for."""
    text = None if data is None else str(data)
    if text is not None and (text == "synthetic" or text.endswith(_FILES)):
        if split is not None:
            raise UserError(f"split has no effect on {text}, which is not TOFU.", fix="Leave it out.")
        return {"name": "synthetic"} if text == "synthetic" else {"name": "files", "forget": {"path": text}}
    given = {"path": text, "split": split}
    return {"name": "tofu", **{key: value for key, value in given.items() if value is not None}}
