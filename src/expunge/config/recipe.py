"""The recipe: everything a user may set, as frozen pydantic models.

Field names are the YAML keys, the command-line overrides and the words of the docs. Unknown keys are refused.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from expunge.config.defaults import changed
from expunge.config.members import BenchmarkField, MethodField
from expunge.config.selection_rule import Rule, read_rule
from expunge.rundir import fingerprint


class Section(BaseModel):
    """Base of every part of a recipe: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


class Scratch(Section):
    """A small Llama trained from nothing, with a tokenizer trained on the data: experiments without downloads."""

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
    """Train low-rank adapters only; the reference is then the same model with the adapter off."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Module names to adapt, or 'all-linear' (all but the output layer)."""


class Model(Section):
    """The model to unlearn, and the one that never saw the forget set."""

    name: str | None = None
    """Hub id or folder of the start model."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    scratch: Scratch | None = None
    """Instead of `name`: build and train a small model from nothing."""
    retain_model: str | None = None
    """Retain model (hub id or folder) or its stored evaluation (a run record or a TOFU log, .json)."""
    retain_model_revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of forward and backward; trained weights always keep a float32 master copy."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    frozen_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the start model's copy, for losses that compare with it at every position; None: that of `dtype`."""
    frozen_device: str | None = None
    """Device of that copy, such as 'cuda:1'; None: that of the model which is trained."""
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.name is None) == (self.scratch is None):
            raise ValueError("set exactly one of name (a hub id or folder) and scratch (a model built here)")
        if self.name is None and self.revision is not None:
            raise ValueError("revision has no effect without name")
        if self.retain_model is None and self.retain_model_revision is not None:
            raise ValueError("retain_model_revision has no effect without retain_model")
        return self


class Prompt(Section):
    """How a question and an answer become text."""

    style: Literal["chat", "plain"] = "chat"
    """'chat' uses the tokenizer's chat template; 'plain' the two patterns below."""
    system: str | None = None
    """System message (chat only)."""
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
    """Plain only: the answer's text; the end-of-sequence token follows."""

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
    """Use only the first rows."""
    min_chars: int | None = Field(default=None, ge=1)
    """Plain text only: leave out texts with fewer characters, and blank ones; `limit` counts what is left."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Plain text only: cut longer texts as `long_text` says, where this is below max_length."""


class TofuData(Section):
    """TOFU (Maini et al. 2024, arXiv:2401.06121): 200 fictitious authors, 20 questions each."""

    name: Literal["tofu"] = "tofu"
    split: Literal["forget01", "forget05", "forget10"] = "forget10"
    path: str = "locuslab/TOFU"
    """Hub id, or a folder with forget10.json, forget10_perturbed.json and so on."""
    revision: str | None = None
    duplicates: Literal["report", "refuse", "off"] = "report"
    """What to do about forget rows that also stand in the retain set."""


class SyntheticData(Section):
    """Fictitious people made here, with questions, paraphrases and wrong answers of the same kind."""

    name: Literal["synthetic"] = "synthetic"
    num_people: int = Field(default=100, ge=4, le=1_000_000)
    forget_fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: int = 0
    duplicates: Literal["report", "refuse", "off"] = "report"


class FilesData(Section):
    """The user's own forget, retain and holdout rows."""

    name: Literal["files"] = "files"
    forget: Source | None = None
    topics: dict[str, Source] = Field(default_factory=dict)
    """Instead of `forget`: a forget set of several topics, by name. Methods such as rmu take them in turn."""
    retain: Source | None = None
    holdout: Source | None = None
    long_text: Literal["refuse", "truncate", "chunk"] = "refuse"
    """What to do with plain text that is longer than max_length: refuse it, cut it off, or make several rows of it."""
    sensitive: bool = False
    """The forget texts are harmful themselves: they are written into no record and no report."""
    duplicates: Literal["report", "refuse", "off"] = "report"

    @property
    def forget_sources(self) -> dict[str, Source]:
        """Where the forget rows come from, by topic; a set without topics is one topic without a name."""
        return self.topics if self.forget is None else {"": self.forget}

    @property
    def sources(self) -> list[Source]:
        """Everything that is read."""
        return [*self.forget_sources.values(), *(part for part in (self.retain, self.holdout) if part is not None)]

    @model_validator(mode="after")
    def _one_forget_set(self) -> Self:
        if (self.forget is None) == (not self.topics):
            raise ValueError("set exactly one of forget (one source) and topics (several, by name)")
        if self.long_text == "refuse" and any(source.max_tokens for source in self.sources):
            raise ValueError("max_tokens has no effect with long_text 'refuse'; set it to truncate or chunk")
        return self


DataConfig = Annotated[TofuData | SyntheticData | FilesData, Field(discriminator="name")]


class Train(Section):
    """One training, with the effective batch as the user sees it; device batch and accumulation are derived."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the forget set (fine-tuning: over the training set)."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of epochs."""
    lr: float = Field(gt=0)
    batch_size: int = Field(default=32, ge=1)
    """Rows per optimiser step over all devices; each forget row comes with one retain row."""
    device_batch_size: int = Field(default=8, ge=1)
    """At most this many rows at a time on a device."""
    max_length: int = Field(default=512, ge=8)
    """Longest row in tokens; a longer one is refused, not cut, unless data.long_text says otherwise."""
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Linear warm-up, in passes over the forget set; the default is cut where the training is shorter, and any other
    value that the training does not outlast is refused."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Linear warm-up in optimiser steps, instead of warmup_epochs."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """Shape of the learning rate after warm-up."""
    optimizer: str = "adamw_torch"
    """A name that transformers.TrainingArguments.optim knows."""
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip the gradient's norm here; 0 switches clipping off."""
    normalize: Literal["batch", "microbatch"] = "batch"
    """'batch': means over the whole effective batch, whatever the device batch is. 'microbatch': means of each
    device batch, averaged, as published code does."""
    order: Literal["permutation", "file"] = "permutation"
    """Rows in a new random order on each pass, or always in the order in which the data gives them."""
    retain_pairing: Literal["permutation", "random", "modulo"] = "permutation"
    """How retain rows are chosen: all once before any again; drawn with replacement; or row i mod N."""
    checkpoint_epochs: float = Field(default=1.0, gt=0)
    """Save the state for resuming this often; an interrupted training goes on from there."""
    report_to: list[str] = Field(default_factory=list)
    """Experiment trackers by transformers' names, such as wandb or mlflow."""
    trainer_extra: dict[str, Any] = Field(default_factory=dict)
    """Further transformers.TrainingArguments, checked against its field names."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.warmup_steps is not None and changed(self, "warmup_epochs"):
            raise ValueError("set only one of warmup_epochs and warmup_steps")
        return self

    @property
    def warmup_setting(self) -> str:
        """Name of the setting that says how long warm-up is, where it is not the default; empty otherwise."""
        return next(iter(changed(self, "warmup_steps", "warmup_epochs")), "")

    @model_validator(mode="after")
    def _training_outlasts_warmup(self) -> Self:
        name = self.warmup_setting
        # Epochs against steps can only be compared once the number of rows is known: training/batching.py does.
        length = getattr(self, name.removeprefix("warmup_")) if name else None
        if length is not None and getattr(self, name) >= length:
            raise ValueError(
                f"{name} {getattr(self, name):g} must be less than {name.removeprefix('warmup_')} {length:g}, or the "
                "training ends before the learning rate arrives"
            )
        return self


class Measure(Section):
    """How models are measured."""

    batch_tokens: int = Field(default=8192, ge=64)
    """Most tokens per forward pass when scoring and generating; on a CPU scoring uses fewer, which is faster."""
    engine: Literal["torch", "vllm"] = "torch"
    """What generates answers. vLLM reads a model's folder, so it works in `evaluate`, not on a model in training."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamples for intervals; 0 switches them off."""


class Evaluate(Measure):
    """What is measured, when, and which checkpoint is kept."""

    benchmarks: list[BenchmarkField] = Field(default_factory=list)
    """Names, or {name: ..., settings}."""
    before: bool = True
    """Measure the target before unlearning."""
    every_epoch: bool = True
    """Measure after each pass over the forget set, for the trajectory."""
    select: str = "last"
    """Which epoch becomes the checkpoint: 'last', or a rule on headlines: 'max NAME', 'min NAME', or
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
        # A user-defined benchmark need not declare its headlines; the first measurement then shows them.
        if all(labels) and (unknown := rule.unknown({name for part in labels for name in part})):
            raise ValueError(unknown[0].removeprefix("select: "))
        return self


class Published(Section):
    """A published number to stand beside ours."""

    value: float
    source: str


class Recipe(Section):
    """One experiment: what to forget, from which model, how, and what to measure."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    seed: int = Field(default=42, ge=0)
    model: Model
    prompt: Prompt = Prompt()
    data: DataConfig
    target: Train | None = None
    """Fine-tune the start model on forget + retain first."""
    retain_model: Train | None = None
    """Fine-tune the start model on retain only: the retain model."""
    method: MethodField
    train: Train | None = None
    """The unlearning itself; left out for methods that do not train."""
    evaluate: Evaluate = Evaluate()
    published: dict[str, Published] = Field(default_factory=dict)
    """Published numbers by headline."""

    @field_validator("model", "data", "train", "target", "retain_model", "evaluate", "prompt", mode="before")
    @classmethod
    def _sections_are_mappings(cls, value: Any) -> Any:
        if isinstance(value, str | int | float | bool | list):
            raise ValueError("is a section with keys of its own, not a single value")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model.scratch is not None and self.target is None:
            raise ValueError("model.scratch starts from random weights, so target: (how to train it) is needed")
        if self.retain_model is not None and self.model.retain_model is not None:
            raise ValueError("retain_model: trains the retain model and model.retain_model loads it; set one of them")
        if self.retain_model is not None and self.target is None:
            raise ValueError("retain_model: needs target: too, so that both models are trained in the same way")
        if self.evaluate.engine != "torch":
            raise ValueError("evaluate.engine: vllm has no effect in a run, whose models are in memory; use `evaluate`")
        trains = bool(getattr(self.method, "trains", True))
        if trains and self.train is None:
            raise ValueError(f"train: is missing; the method {self.method.name} trains the model")
        if not trains and self.train is not None:
            raise ValueError(f"train: has no effect; the method {self.method.name} edits weights without training")
        if not trains and self.model.lora is not None:
            raise ValueError(f"model.lora has no effect; the method {self.method.name} edits the weights themselves")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as plain data that loads back to the same recipe."""
        return dict(self.model_dump(mode="json", exclude_none=True))

    def fingerprint(self) -> str:
        """Name of everything that can change a number of this run."""
        data = self.resolved()
        for key in ("description", "published", "name"):
            data.pop(key, None)
        data["model"].pop("frozen_device", None)
        for part in ("train", "target", "retain_model"):
            data.get(part, {}).pop("report_to", None)
        return fingerprint(data)
