"""Convert a configuration of OpenUnlearning to a recipe, and name every key that has no counterpart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from expunge.commands.openunlearning.composition import MISSING, Composition, compose
from expunge.commands.openunlearning.counterparts import TRAINERS
from expunge.config.load import parse, parse_member, parse_recipe
from expunge.config.recipe import Train
from expunge.errors import ConfigError, DataError, nearest
from expunge.records import Record

_REASONS = (
    ("trainer.args.output_dir", "a run's folder is runs/<name>-<fingerprint>; --runs selects another folder"),
    ("trainer.args.logging_*", "every step is in train.jsonl"),
    ("trainer.args.save_*", "the selected epoch is saved, and states to resume from (train.checkpoint_epochs)"),
    ("trainer.args.*eval*", "results do not depend on it: evaluate.batch_tokens limits memory"),
    ("trainer.args.do_*", "a run trains and measures; evaluate.before and evaluate.every_epoch select when"),
    ("trainer.args.ddp_*", "the launcher takes care of it"),
    ("trainer.args.deepspeed", "sharding is FSDP, from accelerate's configuration"),
    ("trainer.args.remove_unused_columns", "rows are selected by the method"),
    ("trainer.method_args.primal_dual", "method.eta: 0 keeps the dual variable constant"),
    ("trainer.method_args.loss_names", "terms are logged under their names"),
    ("trainer.method_args.dual_update_upon", "the dual variable is updated once per step"),
    ("trainer.method_args.gamma", "the method has no weight of this term"),
    ("model.tokenizer_args.*", "the tokenizer of model.name is used"),
    ("model.template_args.*", "the tokenizer's chat template writes it"),
    ("model.model_args.device_map", "model.device"),
    ("collator*", "rows are batched by length"),
    ("data.anchor", "an epoch is a pass over the forget set"),
    ("data.*.handler", "the columns determine it: question and answer, or text"),
    ("data.*.idk_path", "refusals are packaged"),
    ("eval.*.metrics*", "a benchmark reports all its metrics; evaluate.metrics adds others"),
    ("eval.*.handler", "evaluate.benchmarks names it"),
    ("eval.*.output_dir", "results are in the run's folder"),
    ("eval.*.overwrite", "results are stored by the weights' hash, so there is none to overwrite"),
    ("eval.*.batch_size", "evaluate.batch_tokens limits memory"),
    ("hydra*", "Hydra's own"),
    ("paths*", "Hydra's own"),
)
"""Pattern of keys -> why they have no counterpart."""
_NO_COUNTERPART = "no counterpart"
_VARIABLES = ("forget_split", "retain_split", "holdout_split", "data_split", "retain_logs_path", "mode", "experiment")
"""Keys at the top whose only use is that others refer to them."""
_FINETUNE = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1e-5,
    "bf16": True,
    "optim": "paged_adamw_32bit",
    "num_train_epochs": 10,
    "seed": 0,
}
"""Values of its configs/trainer/finetune.yaml, which every trainer starts from."""
_DEVIATIONS = (
    "Means over tokens are taken over the effective batch; OpenUnlearning averages the means of its micro-batches "
    "(here: train.normalize=microbatch).",
    "Each retain row is used once before any is repeated; OpenUnlearning samples retain rows with replacement (here: "
    "train.retain_pairing=random).",
    "Trained weights are float32 with a forward pass in the precision of model.dtype.",
)
_SCHEDULES = {"constant_with_warmup": "constant", "constant": "constant", "linear": "linear", "cosine": "cosine"}
_OPTIMIZERS = {"paged_adamw_32bit": "adamw_torch", "paged_adamw": "adamw_torch"}
_RETAIN_TERMS = {"NLL": "nll", "KL": "kl"}
_HUB_NAMES = {"TOFU": "locuslab/TOFU", "MUSE": "muse-bench/MUSE-{data_split}", "WMDP": "cais/wmdp-corpora"}
"""Prefix of a data set's name -> hub id, for experiments whose data files were not found."""
_WMDP_TASKS = {"wmdp_bio": "bio", "wmdp_cyber": "cyber", "wmdp_chem": "chem"}


class ImportedRecipe(Record):
    """A converted configuration."""

    recipe: dict[str, Any]
    """A recipe; only `method` and `train` if the file configures a trainer alone."""
    complete: bool
    """Whether it can be run as it is."""
    without_counterpart: dict[str, str] = Field(default_factory=dict)
    """Key with its value -> reason."""
    unread: list[str] = Field(default_factory=list)
    """Files that the configuration names and that were not found."""

    def text(self, source: str) -> str:
        """Return the recipe as YAML, with comments on what could not be converted.

        Args:
            source: Name of the converted file.
        """
        lines = [f"# Imported from OpenUnlearning: {source}"]
        if not self.complete:
            lines += ["# A trainer alone: add name, model, data and evaluate; `expunge init` explains them."]
        if self.unread:
            lines += ["# Not found, so not converted:", *(f"#   {name}" for name in self.unread)]
        if self.without_counterpart:
            lines += ["# Without a counterpart:"]
            lines += [f"#   {key}: {reason}" for key, reason in self.without_counterpart.items()]
        return "\n".join(lines) + "\n" + yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True, width=110)


def import_config(path: Path, overrides: Sequence[str] = (), *, processes: int = 1) -> ImportedRecipe:
    """Convert a configuration to a recipe.

    Args:
        path: `.hydra/config.yaml` of a run (complete), an experiment, or a trainer's file.
        overrides: Values as on OpenUnlearning's command line, such as trainer=NPO.
        processes: GPUs of its training, which multiply its batch.

    Returns:
        A recipe that validates, and each key that it could not take over.

    Raises:
        ConfigError: The file is invalid, the trainer is unknown, or a value is not allowed here.
    """
    composition = compose(path, overrides)
    alone = "handler" in composition.data and "trainer" not in composition.data
    if alone:
        composition.data = {"trainer": composition.data}
    return _Conversion(path, composition, processes).run(alone)


class _Conversion:
    """State of one conversion: the keys that were not taken yet, and the recipe so far."""

    def __init__(self, path: Path, composition: Composition, processes: int) -> None:
        self.path, self.choices, self.unread = path, composition.choices, composition.unread
        self.processes = processes
        self.values = {key: value for key, value in _leaves(composition.data).items() if value != MISSING}
        self.variables = {key: self.values.pop(key) for key in _VARIABLES if key in self.values}
        if any(name.rpartition("/")[2] == "finetune" or name.startswith("trainer/") for name in self.unread):
            self.values = {**{f"trainer.args.{key}": value for key, value in _FINETUNE.items()}, **self.values}
        self.problems: dict[str, str] = {}
        """Keys that were taken, but whose value has no counterpart -> reason."""

    def take(self, key: str, default: Any = None) -> Any:
        """Return and remove a value; the default if the key is absent or null."""
        value = self.values.pop(key, None)
        return default if value is None else value

    def run(self, alone: bool) -> ImportedRecipe:
        """Convert all sections."""
        if self.variables.get("mode", "unlearn") != "unlearn":
            raise ConfigError(
                [f"mode: '{self.variables['mode']}' is no unlearning; a recipe's `target:` describes fine-tuning"],
                source=str(self.path),
            )
        method, train = self.trainer()
        seed = self.take("trainer.args.seed")
        gradient_checkpointing, dtype = self.precision()
        if alone:
            parse_member("method", method)
            parse(train, Train, source=str(self.path))
            recipe: dict[str, Any] = {"method": method, "train": train}
        else:
            evaluate = self.evaluate()
            model = self.model(dtype, gradient_checkpointing)
            prompt = self.prompt()
            data, max_length = self.data()
            if max_length:
                train["max_length"] = max_length
            name = re.sub(r"[^A-Za-z0-9._-]", "-", str(self.take("task_name", self.path.stem))).lstrip("._-")
            recipe = {
                "name": name or "imported",
                **({} if seed is None else {"seed": seed}),
                "model": model,
                **({"prompt": prompt} if prompt else {}),
                "data": data,
                "method": method,
                "train": train,
                "evaluate": evaluate,
                "deviations": list(_DEVIATIONS),
            }
            parse_recipe(recipe, source=f"the recipe from {self.path}")
        lost = {_shown(key, value): _reason(key) for key, value in self.values.items()}
        return ImportedRecipe(
            recipe=recipe,
            complete=not alone,
            without_counterpart={**self.problems, **lost},
            unread=self.unread,
        )

    def trainer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the sections method and train."""
        name = self.take("trainer.handler", self.choices.get("trainer"))
        if name not in TRAINERS:
            problem = "the configuration names no trainer" if name is None else f"there is no counterpart of '{name}'"
            raise ConfigError([f"trainer.handler: {problem}. {nearest(str(name), TRAINERS)}"], source=str(self.path))
        return self.method(name), self.train()

    def method(self, name: str) -> dict[str, Any]:
        """Return the section method."""
        trainer = TRAINERS[name]
        method = {"name": trainer.method, **trainer.fixed}
        if name == "DPO" and any("alt" in key.lower() for key in self.values if key.startswith("data.forget.")):
            method["name"] = "altpo"
        if name == "RMU":
            method |= self.rmu_layers()
        for theirs, ours in trainer.settings.items():
            key = f"trainer.method_args.{theirs}"
            if (value := self.take(key)) is not None:
                method |= self.setting(name, key, ours, value)
        return method

    def setting(self, trainer: str, key: str, ours: str, value: Any) -> dict[str, Any]:
        """Return one setting of a method with the value converted; empty if it cannot be."""
        if ours == "retain":
            if value not in _RETAIN_TERMS:
                self.problems[f"{key} = {value}"] = f"retain terms are {', '.join(_RETAIN_TERMS)}"
                return {}
            return {ours: _RETAIN_TERMS[value]}
        if ours == "skip_first":
            if value not in (0, 1):
                self.problems[f"{key} = {value}"] = "only the first token of an answer can be left out"
                return {}
            return {ours: bool(value)}
        if trainer == "RMU":
            return {ours: [value]}
        if ours == "eta":
            # One update per step, in place of one per micro-batch.
            return {ours: value * (self.values.get("trainer.args.gradient_accumulation_steps") or 1)}
        return {ours: value}

    def rmu_layers(self) -> dict[str, Any]:
        """Return layer, update_layers and update_modules from regular expressions of module names."""
        layers: dict[str, Any] = {}
        self._drop("trainer.method_args.retain_loss_type", "EMBED_DIFF", "the retain term compares hidden states")
        self._drop("trainer.method_args.gamma", 1.0, _reason("trainer.method_args.gamma"))
        key = "trainer.method_args.module_regex"
        if (pattern := self.take(key)) is not None:
            if match := re.fullmatch(r"\^?model\\?\.layers\\?\.(\d+)\$?", pattern):
                layers["layer"] = int(match[1])
            else:
                self.problems[f"{key} = {pattern}"] = "set method.layer"
        key = "trainer.method_args.trainable_params_regex"
        if (patterns := self.take(key)) is not None:
            layers |= self._trained(key, [patterns] if isinstance(patterns, str) else patterns)
        return layers

    def _trained(self, key: str, patterns: Sequence[str]) -> dict[str, Any]:
        numbers: set[int] = set()
        modules: set[str] = set()
        for pattern in patterns:
            match = re.fullmatch(r"\^?model\\?\.layers\\?\.\(?([\d|]+)\)?\\?\.([\w\\.]+)\$?", pattern)
            if match is None:
                self.problems[f"{key} = {pattern}"] = "set method.update_layers and method.update_modules"
                return {}
            numbers |= {int(number) for number in match[1].split("|")}
            modules.add(match[2].replace("\\", ""))
        return {"update_layers": sorted(numbers), "update_modules": sorted(modules)}

    def _drop(self, key: str, expected: Any, reason: str) -> None:
        """Remove a value that is implied here, and report any other value."""
        value = self.take(key)
        if value is not None and value != expected:
            self.problems[f"{key} = {value}"] = reason

    def train(self) -> dict[str, Any]:
        """Return the section train; values that are absent are the defaults of transformers."""
        rows = int(self.take("trainer.args.per_device_train_batch_size", 8))
        # `eta` has read it without taking it.
        accumulation = int(self.take("trainer.args.gradient_accumulation_steps", 1))
        steps, epochs = self.take("trainer.args.max_steps", -1), self.take("trainer.args.num_train_epochs", 3)
        train: dict[str, Any] = {"steps": int(steps)} if steps > 0 else {"epochs": epochs}
        train |= {
            "lr": self.take("trainer.args.learning_rate", 5e-5),
            "batch_size": rows * accumulation * self.processes,
            "device_batch_size": rows,
            "weight_decay": self.take("trainer.args.weight_decay", 0.0),
        }
        warmup_steps, warmup_epochs = (
            self.take("trainer.args.warmup_steps", 0),
            self.take("trainer.args.warmup_epochs", 0),
        )
        train |= {"warmup_steps": warmup_steps} if warmup_steps else {"warmup_epochs": warmup_epochs}
        schedule = self.take("trainer.args.lr_scheduler_type", "linear")
        if schedule in _SCHEDULES:
            train["schedule"] = _SCHEDULES[schedule]
        else:
            self.problems[f"trainer.args.lr_scheduler_type = {schedule}"] = "train.schedule: linear, constant or cosine"
        optimizer = self.take("trainer.args.optim", "adamw_torch")
        train["optimizer"] = _OPTIMIZERS.get(optimizer, optimizer)
        for theirs, ours in (("max_grad_norm", "max_grad_norm"), ("report_to", "report_to")):
            if (value := self.take(f"trainer.args.{theirs}")) is not None:
                train[ours] = _names(value) if ours == "report_to" else value
        betas = self.take("trainer.args.adam_beta1", 0.9), self.take("trainer.args.adam_beta2", 0.999)
        if betas != (0.9, 0.999):
            train["betas"] = list(betas)
        if (epsilon := self.take("trainer.args.adam_epsilon")) is not None:
            train["trainer_extra"] = {"adam_epsilon": epsilon}
        return train

    def precision(self) -> tuple[bool, str]:
        """Return gradient checkpointing and the precision of the training."""
        checkpointing = bool(self.take("trainer.args.gradient_checkpointing", False))
        half = {"bf16": "bfloat16", "fp16": "float16"}
        selected = [ours for theirs, ours in half.items() if self.take(f"trainer.args.{theirs}", False)]
        return checkpointing, selected[0] if selected else "float32"

    def model(self, dtype: str, gradient_checkpointing: bool) -> dict[str, Any]:
        """Return the section model.

        Raises:
            ConfigError: The configuration names no model.
        """
        name = self.take("model.model_args.pretrained_model_name_or_path")
        if name is None:
            raise ConfigError(
                [
                    "model.model_args.pretrained_model_name_or_path is not set in this file; add it, as in "
                    f"`expunge import {self.path} model.model_args.pretrained_model_name_or_path=./target`, or import "
                    "the run's .hydra/config.yaml"
                ],
                source=str(self.path),
            )
        loaded = str(self.take("model.model_args.torch_dtype", dtype)).removeprefix("torch.")
        model = {"name": name, "dtype": dtype if loaded == "float32" else loaded}
        if (attention := self.take("model.model_args.attn_implementation")) is not None:
            model["attention"] = attention
        if gradient_checkpointing:
            model["gradient_checkpointing"] = True
        logs = self.variables.get("retain_logs_path")
        if isinstance(logs, str) and "TOFU" in Path(logs).name:
            model["retain_model"] = logs
        elif logs is not None:
            self.problems[f"retain_logs_path = {logs}"] = (
                "its rows cannot be read: model.retain_model=FOLDER_OF_A_MODEL"
            )
        return model

    def prompt(self) -> dict[str, Any]:
        """Return the section prompt; empty for the defaults."""
        tags = {key: self.values.get(f"model.template_args.{key}") or "" for key in ("user_start_tag", "user_end_tag")}
        chat = self.take("model.template_args.apply_chat_template")
        system, date = (self.take(f"model.template_args.{key}") for key in ("system_prompt", "date_string"))
        if chat is None and not any(tags.values()):
            return {}
        if chat:
            given = {"system": system, "date": date}
            return {"style": "chat", **{key: value for key, value in given.items() if value is not None}}
        names = ("system_prompt_with_special_tokens", "user_start_tag", "user_end_tag", "asst_start_tag")
        before, start, end, answer = (str(self.take(f"model.template_args.{key}", "")) for key in names)
        self.take("model.template_args.asst_end_tag")
        return {"style": "plain", "question": f"{before}{start}{{question}}{end}{answer}", "answer": "{answer}"}

    def data(self) -> tuple[dict[str, Any], int]:
        """Return the section data and the longest row in tokens; 0 if it is not set.

        Raises:
            DataError: The configuration names no forget set.
        """
        forget, retain = self._data_sets("forget"), self._data_sets("retain")
        if not forget:
            raise DataError(
                f"{self.path} has no data.forget, so there is nothing to unlearn.",
                fix="Import the run's .hydra/config.yaml, which has all values.",
            )
        keys = [*(f"data.forget.{name}" for name in forget), *(f"data.retain.{name}" for name in retain)]
        max_length = max(int(self.take(f"{key}.args.max_length", 0)) for key in keys)
        sources = {key: self._source(key) for key in keys}
        first = sources[keys[0]]
        if len(forget) == 1 and first["path"].lower().endswith("/tofu"):
            return self._tofu(first, [sources[f"data.retain.{name}"] for name in retain]), max_length
        data: dict[str, Any] = {"name": "files"}
        if len(forget) == 1:
            data["forget"] = first
        else:
            data["topics"] = {name: sources[f"data.forget.{name}"] for name in forget}
        if retain:
            data["retain"] = sources[f"data.retain.{retain[0]}"]
        for name in retain[1:]:
            self.problems[f"data.retain.{name}"] = "there is one retain set; put all rows into one file"
        if "text" in first.get("columns", {}):
            data["long_text"] = "chunk"
        return data, max_length

    def _tofu(self, forget: dict[str, Any], retain: Sequence[dict[str, Any]]) -> dict[str, Any]:
        split = str(forget.get("config") or self.variables.get("forget_split"))
        implied = f"retain{100 - int(split.removeprefix('forget'))}" if split[-2:].isdigit() else ""
        for other in retain:
            if other.get("config", implied) != implied:
                self.problems[f"retain set {other['config']}"] = f"the retain set of {split} is {implied}"
        local = {} if forget["path"] == _HUB_NAMES["TOFU"] else {"path": forget["path"]}
        return {"name": "tofu", "split": split, **local}

    def _data_sets(self, set_name: str) -> list[str]:
        keys = [key.split(".") for key in self.values if key.startswith(f"data.{set_name}.")]
        return list(dict.fromkeys(parts[2] for parts in keys))

    def _source(self, key: str) -> dict[str, Any]:
        prefix, name = f"{key}.args", key.rpartition(".")[2]
        path = self.take(f"{prefix}.hf_args.path")
        files = self.take(f"{prefix}.hf_args.data_files")
        if path in ("text", "json", "csv") and files is not None:
            # The name of a format, with the file beside it.
            path = files
        elif files is not None:
            self.problems[f"{prefix}.hf_args.data_files = {files}"] = "name the file in path"
        path = path or _HUB_NAMES.get(name.partition("_")[0], name).format_map({"data_split": "News", **self.variables})
        source = {"path": path}
        config, split = self.take(f"{prefix}.hf_args.name"), self.take(f"{prefix}.hf_args.split")
        if "." not in Path(path).name:
            source |= {"config": config} if config else {}
            source |= {"split": split} if split and split != "train" else {}
        columns = {
            ours: value
            for ours, theirs in (("question", "question_key"), ("answer", "answer_key"), ("text", "text_key"))
            if (value := self.take(f"{prefix}.{theirs}")) is not None
        }
        return {**source, **({"columns": columns} if columns else {})}

    def evaluate(self) -> dict[str, Any]:
        """Return the section evaluate."""
        listed = dict.fromkeys(key.split(".")[1] for key in self.values if key.startswith("eval."))
        names = [name for name in listed if name] or [self.choices.get("eval", "")]
        benchmarks: list[Any] = []
        for name in names:
            for key in ("retain_logs_path", "forget_split", "holdout_split", "data_split"):
                if (value := self.take(f"eval.{name}.{key}")) is not None:
                    self.variables.setdefault(key, value)
            if name == "tofu":
                self._drop(f"eval.{name}.question_key", "question", "tofu's setting paraphrased asks paraphrases")
                benchmarks.append("tofu")
            elif name == "muse":
                corpus = self.variables.get("data_split") or "News"
                benchmarks.append({"name": "muse", "path": f"muse-bench/MUSE-{corpus}", "stem": True})
            elif name in ("lm_eval", "wmdp"):
                benchmarks += self._lm_eval(name)
            elif name:
                self.problems[f"eval.{name}"] = "no such benchmark; expunge ls benchmarks"
        before, strategy = self.take("trainer.args.eval_on_start"), self.take("trainer.args.eval_strategy")
        return {
            "benchmarks": benchmarks,
            **({} if before is None else {"before": bool(before)}),
            **({} if strategy is None else {"every_epoch": strategy == "epoch"}),
        }

    def _lm_eval(self, name: str) -> list[Any]:
        tasks = _names(self.take(f"eval.{name}.tasks", ["wmdp_bio", "wmdp_cyber"]))
        topics = [_WMDP_TASKS[task] for task in tasks if task in _WMDP_TASKS]
        benchmarks: list[Any] = [{"name": "wmdp", "topics": topics}] if topics else []
        benchmarks += ["mmlu"] if "mmlu" in tasks else []
        for task in tasks:
            if task not in _WMDP_TASKS and task != "mmlu":
                self.problems[f"eval.{name}.tasks: {task}"] = "see expunge ls benchmarks"
        return benchmarks


def _leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; lists and empty mappings are values."""
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _shown(key: str, value: Any) -> str:
    """Return key and value; only the section of keys of which a configuration has dozens."""
    section = re.match(r"(eval\.\w+\.metrics|paths|hydra|collator)\.", key)
    return f"{section[0]}*" if section else f"{key} = {value}"


def _reason(key: str) -> str:
    return next((reason for pattern, reason in _REASONS if fnmatch(key, pattern)), _NO_COUNTERPART)


def _names(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else list(value)
    return [str(name) for name in names if name not in ("none", "None")]
