"""The recipe: all settings of a run, as frozen pydantic models.

Field names are the keys in YAML and in command-line overrides. Unknown keys are errors.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from expunge.config.defaults import changed
from expunge.config.members import BenchmarkField, MethodField, RowMetric, Settings, metric_spec
from expunge.config.selection_rule import Rule, read_rule
from expunge.rundir import fingerprint


class Section(Settings):
    """Base of every section of a recipe."""


class Scratch(Section):
    """A small Llama trained from scratch, with a tokenizer trained on the data; needs no download."""

    hidden_size: int = Field(default=192, ge=8)
    num_layers: int = Field(default=4, ge=1)
    num_heads: int = Field(default=6, ge=1)
    intermediate_size: int = Field(default=512, ge=8)
    vocab_size: int = Field(default=2048, ge=300)
    max_length: int = Field(default=256, ge=16)
    """Longest sequence in tokens."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 2 x num_heads {self.num_heads}")
        return self


class Lora(Section):
    """Train low-rank adapters only; the frozen reference is then the same model with the adapter off."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Module names to adapt, or 'all-linear' (all but the output layer)."""


class Model(Section):
    """The model to unlearn, and the retain model, which never saw the forget set."""

    name: str | None = None
    """Hub id or folder of the base model (to be fine-tuned by `target`), or of the target itself. It may be an adapter
    such as a LoRA checkpoint, which is loaded with the model that it was trained on, or a GGUF file (extra 'gguf'),
    which is dequantised to float16."""
    revision: str | None = None
    """Hub only: commit, tag or branch."""
    scratch: Scratch | None = None
    """Instead of `name`: build a small model and train it from scratch."""
    retain_model: str | None = None
    """Hub id or folder of the retain model, or its stored evaluation (a record of a run or a TOFU log, .json)."""
    retain_model_revision: str | None = None
    """Hub only: commit, tag or branch of the retain model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of forward and backward passes; trained weights always have a float32 master copy."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Implementation of attention."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model; 'auto' is the GPU if there is one."""
    frozen_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the frozen reference, for losses that compare with it at every position; null: that of `dtype`."""
    frozen_device: str | None = None
    """Device of the frozen reference, such as 'cuda:1'; null: that of the trained model."""
    lora: Lora | None = None
    adapter: Literal["merged", "stacked"] | None = None
    """Only if `name` is an adapter: 'merged' (as null) adds it to the weights of its base model before anything else;
    'stacked' leaves it beside them, frozen, and trains `lora` as a second adapter on top."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    trust_remote_code: bool = False
    """Execute Python code that is part of the model. Leave it off unless you have read that code."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.scratch is None):
            raise ValueError(
                "set exactly one of name (hub id or folder) and scratch (a small model built from scratch)"
            )
        if self.name is None and self.revision is not None:
            raise ValueError("revision has no effect without name")
        if self.name is None and self.adapter is not None:
            raise ValueError("adapter has no effect without name")
        if self.retain_model is None and self.retain_model_revision is not None:
            raise ValueError("retain_model_revision has no effect without retain_model")
        return self


class Prompt(Section):
    """Format of questions and answers."""

    style: Literal["chat", "plain"] = "chat"
    """'chat' uses the tokenizer's chat template, 'plain' the patterns `question` and `answer`."""
    system: str | None = None
    """Chat only: system message."""
    date: str | None = None
    """Date that the chat template prints (chat only): a day as YYYY-MM-DD, in the template's own format, or any other
    text as its `date_string`. By default the day on which the run starts, if the template prints today's date; the
    run records that day and keeps it when it is resumed."""
    template: dict[str, Any] = Field(default_factory=dict)
    """Variables of the chat template, such as {enable_thinking: false} (chat only)."""
    control_tokens: bool = False
    """Read control tokens in the text of rows, such as '</s>' or '<|im_end|>', as control tokens. By default they are
    encoded as the ordinary text that they are there, so that they cannot end an answer."""
    question: str = "Question: {question}\nAnswer:"
    """Plain only: text before the answer."""
    answer: str = " {answer}"
    """Plain only: text of the answer, which the end-of-sequence token follows."""

    @field_validator("date", mode="before")
    @classmethod
    def _day_as_text(cls, value: Any) -> Any:
        # YAML reads 2025-01-31 as a date.
        return value.isoformat() if isinstance(value, datetime.date) else value

    @field_validator("system", "question", "answer")
    @classmethod
    def _valid_text(cls, value: str | None) -> str | None:
        if value is not None and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("contains half of a character (a lone surrogate), which cannot be encoded")
        return value

    @field_validator("template")
    @classmethod
    def _only_variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(_NO_TEMPLATE_VARIABLES & value.keys()):
            raise ValueError(f"'{reserved[0]}' cannot be set here; expunge passes its own value")
        return {name: item.isoformat() if isinstance(item, datetime.date) else item for name, item in value.items()}

    @model_validator(mode="after")
    def _no_dead_settings(self) -> Self:
        if self.style == "plain" and changed(self, "system", "date", "template"):
            raise ValueError("system, date and template have no effect with style 'plain'; put the text into question")
        if self.style == "chat" and changed(self, "question", "answer"):
            raise ValueError("question and answer have no effect with style 'chat'; set style: plain")
        if "{question}" not in self.question or "{answer}" not in self.answer:
            raise ValueError("question must contain {question} and answer must contain {answer}")
        if self.date is not None and "date_string" in self.template:
            raise ValueError("set only one of date and template.date_string")
        return self


_NO_TEMPLATE_VARIABLES = frozenset(
    [
        "messages",
        "conversation",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "strftime_now",
    ]
)
"""Names that `apply_chat_template` does not pass on, or that every prompt needs."""


class Source(Section):
    """Rows from a file, a folder or the hub."""

    path: str
    """.json, .jsonl, .csv, .tsv, .parquet, .txt, all but .parquet also compressed (.gz), a folder of text files, or a
    hub id."""
    config: str | None = None
    """Hub only: name of the configuration."""
    split: str | None = None
    """Hub only: name of the split (default 'train')."""
    revision: str | None = None
    """Hub only: commit, tag or branch."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name -> the file's name, for question, answer, text, messages, group, paraphrased_question, ...

    A row of chat `messages` gives its last question and the answer to it; earlier turns and system messages are left
    out, which a note states."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows, at most this many."""
    min_chars: int | None = Field(default=None, ge=1)
    """Plain text only: skip texts with fewer characters, and blank ones; `limit` counts the remaining texts."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Plain text only: truncate or split longer texts (see `long_text`), if this is less than max_length."""


class TofuData(Section):
    """TOFU (Maini et al. 2024, arXiv:2401.06121): 200 fictitious authors, 20 questions each."""

    name: Literal["tofu"] = "tofu"
    split: Literal["forget01", "forget05", "forget10"] = "forget10"
    path: str = "locuslab/TOFU"
    """Hub id, or a folder with forget10.json, forget10_perturbed.json and so on."""
    revision: str | None = None
    """Hub only: commit, tag or branch."""
    retain_authors: int | None = Field(default=None, ge=20, le=198)
    """Use only the first authors of the retain set; by default all. The first 20 are those that TOFU measures."""
    duplicates: Literal["report", "refuse", "off"] = "report"
    """Forget rows that are also in the retain set: report them, refuse to run, or skip the search."""


class SyntheticData(Section):
    """Generated fictitious people, with questions, paraphrases and wrong answers of the same form."""

    name: Literal["synthetic"] = "synthetic"
    num_people: int = Field(default=100, ge=4, le=1_000_000)
    forget_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the people in the forget set."""
    seed: int = 0
    """Seed of the generated data."""
    duplicates: Literal["report", "refuse", "off"] = "report"
    """Forget rows that are also in the retain set: report them, refuse to run, or skip the search."""


class FilesData(Section):
    """User-defined forget, retain and holdout rows."""

    name: Literal["files"] = "files"
    forget: Source | None = None
    topics: dict[str, Source] = Field(default_factory=dict)
    """Instead of `forget`: a forget set of several named topics, between which methods such as rmu alternate."""
    retain: Source | None = None
    holdout: Source | None = None
    long_text: Literal["refuse", "truncate", "chunk"] = "refuse"
    """Plain text longer than max_length: refuse it, truncate it, or split it into several rows."""
    sensitive: bool = False
    """Whether the forget texts are harmful themselves: records and reports then hold hashes instead of texts."""
    duplicates: Literal["report", "refuse", "off"] = "report"
    """Forget rows that are also in the retain set: report them, refuse to run, or skip the search."""

    @property
    def forget_sources(self) -> dict[str, Source]:
        """Sources of the forget rows by topic; a forget set without topics is one topic with an empty name."""
        return self.topics if self.forget is None else {"": self.forget}

    @property
    def sources(self) -> list[Source]:
        """All sources."""
        return [
            *self.forget_sources.values(),
            *(source for source in (self.retain, self.holdout) if source is not None),
        ]

    @model_validator(mode="after")
    def _one_forget_set(self) -> Self:
        if (self.forget is None) == (not self.topics):
            raise ValueError("set exactly one of forget (one source) and topics (several, by name)")
        if self.long_text == "refuse" and any(source.max_tokens for source in self.sources):
            raise ValueError("max_tokens has no effect with long_text 'refuse'; set it to truncate or chunk")
        return self


DataConfig = Annotated[TofuData | SyntheticData | FilesData, Field(discriminator="name")]


class Train(Section):
    """One training. Gradient accumulation follows from batch_size, device_batch_size and the number of devices."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the forget set (for fine-tuning: over the training set)."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of epochs."""
    lr: float = Field(gt=0)
    """Highest learning rate."""
    batch_size: int = Field(default=32, ge=1)
    """Rows per optimiser step over all devices (the effective batch); each forget row is paired with a retain row."""
    device_batch_size: int = Field(default=8, ge=1)
    """Most rows per micro-batch on one device."""
    max_length: int = Field(default=512, ge=8)
    """Longest row in tokens. A longer row is an error, unless `data.long_text` truncates or splits it."""
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Linear warm-up, in passes over the forget set. The default is shortened for shorter trainings; any other value
    must be less than the length of the training."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Linear warm-up in optimiser steps, instead of warmup_epochs."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """Shape of the learning rate after warm-up."""
    optimizer: str = "adamw_torch"
    """A value of transformers.TrainingArguments.optim, or adamw_uncorrected_epsilon: AdamW with epsilon added before
    bias correction, as in the former transformers.AdamW (`trainer_extra: {adam_epsilon: 1e-6}` was its default)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient, to which it is clipped; 0 disables clipping."""
    normalize: Literal["batch", "microbatch"] = "batch"
    """'batch': mean over the effective batch, which does not depend on the micro-batch. 'microbatch': average of the
    means of the micro-batches, as in published code."""
    order: Literal["permutation", "file"] = "permutation"
    """Order of the rows: a new permutation in each pass, or the order of the data."""
    retain_pairing: Literal["permutation", "random", "modulo"] = "permutation"
    """Choice of retain rows: each once before any is repeated, sampled with replacement, or row i mod N."""
    learn_padding: bool = False
    """Pad every row to max_length and learn the padding token at all these positions, as some published code does by
    not masking its labels; only for methods without a reference."""
    checkpoint_epochs: float = Field(default=1.0, gt=0)
    """Passes over the forget set between saved states, from which an interrupted training resumes."""
    report_to: list[str] = Field(default_factory=list)
    """Experiment trackers by their names in transformers, such as wandb or mlflow."""
    trainer_extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of transformers.TrainingArguments."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.warmup_steps is not None and changed(self, "warmup_epochs"):
            raise ValueError("set only one of warmup_epochs and warmup_steps")
        return self

    @property
    def warmup_setting(self) -> str:
        """Name of the setting that changes the warm-up; empty for the default warm-up."""
        return next(iter(changed(self, "warmup_steps", "warmup_epochs")), "")

    @model_validator(mode="after")
    def _training_outlasts_warmup(self) -> Self:
        name = self.warmup_setting
        # Warm-up in steps and a length in epochs (or the reverse) are compared in training/batching.py, where the
        # number of rows is known.
        length = getattr(self, name.removeprefix("warmup_")) if name else None
        if length is not None and getattr(self, name) >= length:
            raise ValueError(
                f"{name} {getattr(self, name):g} must be less than {name.removeprefix('warmup_')} {length:g}"
            )
        return self


class Measure(Section):
    """Settings of measurements."""

    batch_tokens: int = Field(default=8192, ge=64)
    """Most tokens per forward pass for scoring and generation. On a CPU scoring uses smaller batches, which are
    faster."""
    engine: Literal["torch", "vllm"] = "torch"
    """Engine for generation. vLLM loads a model from its folder, so it works in `evaluate`, but not during a run."""
    bootstrap: int = Field(default=1000, ge=0)
    """Bootstrap resamples for intervals; 0 disables intervals."""
    metrics: list[RowMetric] = Field(default_factory=list)
    """Further metrics of single rows: names (`expunge show NAME` prints the columns that a metric needs) or Python
    files. Each is computed on every set of each benchmark that has these columns, and reported as its mean over rows
    under '<set>/<metric>'. A metric that a benchmark reports itself is not computed again."""

    @field_validator("metrics")
    @classmethod
    def _distinct_metrics(cls, names: list[str]) -> list[str]:
        functions = [metric_spec(name).name for name in names]
        if repeated := sorted({name for name in functions if functions.count(name) > 1}):
            raise ValueError(f"two metrics are called '{repeated[0]}', and their results would overwrite each other")
        return names

    def columns_problem(self, benchmarks: Sequence[BenchmarkField]) -> str:
        """Return a message about a metric whose columns no benchmark has; empty if there is none.

        A benchmark that does not declare its columns may have any; the first measurement then shows them.

        Args:
            benchmarks: Benchmarks whose rows the metrics are computed from.
        """
        columns = {benchmark.key: benchmark.columns() for benchmark in benchmarks}
        if not all(columns.values()):
            return ""
        for name in self.metrics:
            needs = metric_spec(name).needs
            if not any(set(needs) <= set(available) for available in columns.values()):
                listing = " ".join(f"Columns of {key}: {', '.join(names)}." for key, names in columns.items())
                return f"'{name}' needs the columns {', '.join(needs)}, which no benchmark has. {listing}".rstrip()
        return ""


class Evaluate(Measure):
    """Benchmarks and metrics, when they are measured, and which epoch becomes the checkpoint."""

    benchmarks: list[BenchmarkField] = Field(default_factory=list)
    """Benchmarks: names, or {name: ..., <settings>}."""
    before: bool = True
    """Measure the target before unlearning."""
    every_epoch: bool = True
    """Measure after each pass over the forget set."""
    select: str = "last"
    """Rule that selects the checkpoint's epoch: 'last', or a rule on headlines: 'max NAME', 'min NAME', or
    'max NAME subject to NAME >= NUMBER', such as 'max model_utility subject to forget_quality >= 0.05'."""

    @property
    def rule(self) -> Rule:
        """The rule that selects the checkpoint's epoch."""
        return read_rule(self.select)

    @model_validator(mode="after")
    def _selection_has_choices(self) -> Self:
        keys = [benchmark.key for benchmark in self.benchmarks]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"benchmarks: '{repeated[0]}' is listed twice, and its results would overwrite each other")
        rule = self.rule
        if not rule.is_last and not self.every_epoch:
            raise ValueError(f"select: '{self.select}' needs every_epoch: true, because it compares epochs")
        labels = [benchmark.labels() for benchmark in self.benchmarks]
        # A user-defined benchmark may not declare its headlines; the names are then checked after a measurement.
        if all(labels) and (unknown := rule.unknown({name for declared in labels for name in declared})):
            raise ValueError(unknown[0].removeprefix("select: "))
        if problem := self.columns_problem(self.benchmarks):
            raise ValueError(f"metrics: {problem}")
        return self


class Published(Section):
    """A published value, which reports print next to the measured one."""

    value: float
    source: str
    """Paper, model card or page of the value."""


class Recipe(Section):
    """One experiment: the model, the data to forget, the method, and the benchmarks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the experiment; the run's folder is runs/<name>-<fingerprint>."""
    description: str = ""
    seed: int = Field(default=42, ge=0)
    """Seed of weights, of the order of rows, and of bootstrap intervals."""
    model: Model
    prompt: Prompt = Prompt()
    data: DataConfig
    target: Train | None = None
    """Fine-tune the base model on forget and retain set first; null if the model already knows the forget set."""
    retain_model: Train | None = None
    """Fine-tune the base model on the retain set alone, as the retain model."""
    method: MethodField
    train: Train | None = None
    """The unlearning; omitted for methods that do not train."""
    evaluate: Evaluate = Evaluate()
    published: dict[str, Published] = Field(default_factory=dict)
    """Published values by headline."""
    deviations: list[str] = Field(default_factory=list)
    """Known differences between this recipe and the experiment that it repeats, one fact each, with its source."""

    @field_validator("model", "data", "train", "target", "retain_model", "evaluate", "prompt", mode="before")
    @classmethod
    def _sections_are_mappings(cls, value: Any) -> Any:
        if isinstance(value, str | int | float | bool | list):
            raise ValueError("must be a section with keys, not a single value")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model.scratch is not None and self.target is None:
            raise ValueError(
                "target: is missing; model.scratch starts from random weights, which must be trained first"
            )
        if self.retain_model is not None and self.model.retain_model is not None:
            raise ValueError(
                "set only one of retain_model (which trains the retain model) and model.retain_model (which loads it)"
            )
        if self.retain_model is not None and self.target is None:
            raise ValueError(
                "retain_model: needs target: too, so that both models are fine-tuned from the same base model"
            )
        if self.evaluate.engine != "torch":
            raise ValueError(
                "evaluate.engine: vllm cannot be used in a run, whose models are in memory; use `expunge evaluate`"
            )
        trains = self.method.trains
        if trains and self.train is None:
            raise ValueError(f"train: is missing; the method {self.method.name} trains the model")
        if not trains and self.train is not None:
            raise ValueError(f"train: has no effect; the method {self.method.name} edits weights without training")
        if self.train is not None and self.train.learn_padding:
            needs = self.method.needs()
            if needs.reference or needs.reference_logp:
                raise ValueError(
                    f"train.learn_padding: the method {self.method.name} compares with the reference, which is scored "
                    "without padding; set it to false"
                )
        if not trains and self.model.lora is not None:
            raise ValueError(f"model.lora has no effect; the method {self.method.name} edits weights without training")
        return self

    @model_validator(mode="after")
    def _stacked_has_effect(self) -> Self:
        if self.model.adapter == "stacked":
            if self.model.lora is None:
                raise ValueError("model.adapter: stacked needs model.lora, the adapter to train on top; or set merged")
            if self.target is not None:
                raise ValueError("model.adapter: stacked has no effect with target:, which trains all weights")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain data, from which the same recipe can be loaded."""
        return dict(self.model_dump(mode="json", exclude_none=True))

    def fingerprint(self) -> str:
        """Return a hash of all settings that can change a result."""
        data = self.resolved()
        for key in ("description", "published", "deviations", "name"):
            data.pop(key, None)
        data["model"].pop("frozen_device", None)
        for section in ("train", "target", "retain_model"):
            data.get(section, {}).pop("report_to", None)
        return fingerprint(data)
