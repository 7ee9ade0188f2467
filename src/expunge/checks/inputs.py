"""Checks of a recipe's inputs: model, weights, tokenizer, data and retain model."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jinja2

from expunge.checks.report import NotChecked
from expunge.config.recipe import Model, Recipe
from expunge.data.prepare import is_local, prepare_sets
from expunge.data.sets import RowSet, Sets, num_rows
from expunge.data.templates import Template
from expunge.errors import DataError, IncompatibleError, nearest
from expunge.modeling import load as loading
from expunge.modeling.adapter_loading import check_shapes
from expunge.modeling.adapters import is_adapted, prepare_training
from expunge.modeling.architectures import adapter_of, bundled_configs, meta_model
from expunge.modeling.gguf import as_folder
from expunge.modeling.load import check_tokenizer, context_length
from expunge.modeling.opening import check_same_settings, check_same_tokens, comparable_facts
from expunge.modeling.saved_adapters import ADAPTER_WEIGHTS, SavedAdapter
from expunge.modeling.tokenizers import make_template, tokenizer_of
from expunge.services.hub import hub_reachable

_ON_HUB = "it is on the hub; the run reads it"


def input_checks(recipe: Recipe) -> list[tuple[str, Callable[[], str]]]:
    """Return the name and function of each check; later checks use the results of earlier ones."""
    inputs = Inputs(recipe)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("model", inputs.check_model),
        ("weights", inputs.check_weights),
        ("modules", inputs.check_modules),
        ("data", inputs.check_data),
        ("tokenizer", inputs.check_tokenizer),
        ("rows", inputs.check_rows),
    ]
    for benchmark in recipe.evaluate.benchmarks:
        checks.append((f"benchmark {benchmark.name}", functools.partial(inputs.check_benchmark, benchmark)))
    if recipe.model.retain_model is not None:
        checks.append(("retain model", inputs.check_retain_model))
    return checks


class Inputs:
    """Inputs of a recipe, loaded once; a check whose input could not be loaded raises `NotChecked`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model: Any = None
        self.adapter: SavedAdapter | None = None
        self.sets: Sets | None = None
        self.template: Template | None = None

    def check_model(self) -> str:
        """Build the model without weights, and count its parameters."""
        model = self.recipe.model
        name, online, source = model.name, False, "from scratch"
        if name is not None:
            loading.check_model_folder(name)
            source = "from its config.json"
            if not Path(name).exists():
                packaged = name in bundled_configs()
                online = not packaged and hub_reachable()
                source = "config packaged with expunge" if packaged else "config from the hub"
        try:
            self.model = meta_model(model, online=online)
            self.adapter = adapter_of(model, online=online)
        except DataError as error:
            if name is None or Path(name).exists() or online:
                raise
            raise NotChecked(f"the hub is out of reach, and {name} is not in its local cache") from error
        count = sum(parameter.numel() for parameter in self.model.parameters())
        layers = self.model.config.get_text_config().num_hidden_layers
        adapter = f"; {self.adapter.summary}, {model.adapter or 'merged'}" if self.adapter is not None else ""
        return f"{self.model.config.model_type}, {count:,} parameters, {layers} layers ({source}){adapter}"

    def check_weights(self) -> str:
        """Compare the shapes in the headers of local weight files with the model's."""
        name = self.recipe.model.name
        if name is None:
            raise NotChecked("the weights are trained in the run")
        name = as_folder(name)
        if not Path(name).is_dir():
            raise NotChecked(_ON_HUB)
        return _check_weights(name, self.adapter, self._need(self.model, "model"))

    def check_modules(self) -> str:
        """Check that the layers, modules and LoRA targets that settings name are in the model."""
        model, recipe = self._need(self.model, "model"), self.recipe
        method, lora, details = recipe.method, recipe.model.lora, list[str]()
        modules = {name for name, _ in model.named_modules() if name}
        chosen = method.trainable(model)
        if chosen is not None:
            sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
            count = sum(sizes.get(name, 0) for name in chosen)
            details.append(f"{len(chosen)} tensors of {count:,} parameters are trained")
        needs, num_layers = method.needs(), model.config.get_text_config().num_hidden_layers
        for setting, layers in needs.layers.items():
            outside = [layer for layer in layers if not -num_layers <= layer < num_layers]
            if outside:
                raise IncompatibleError(
                    f"method.{setting}: {outside[0]} is outside the model, which has layers 0 to {num_layers - 1}."
                )
            details.append(f"method.{setting} is inside the model")
        for setting, names in needs.modules.items():
            _check_module_names(f"method.{setting}", names, modules)
            details.append(f"method.{setting} is inside the model")
        if lora is not None:
            _check_module_names("model.lora.targets", lora.targets if isinstance(lora.targets, list) else [], modules)
        if method.trains:
            trained = prepare_training(model, lora, recipe.seed, method.trainable)
            count = sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad)
            self.model = trained.unload() if is_adapted(trained) else trained
        if lora is not None:
            details.append(f"LoRA trains {count:,} parameters")
        if not details:
            raise NotChecked("no setting names a layer or module")
        return "; ".join(details)

    def check_data(self) -> str:
        """Read every row of local data."""
        if not is_local(self.recipe):
            raise NotChecked(_ON_HUB)
        self.sets = prepare_sets(self.recipe.data)
        return ", ".join(f"{count} {name}" for name, count in num_rows(self.sets).items())

    def check_tokenizer(self) -> str:
        """Load or train the tokenizer, and format a prompt with it."""
        recipe = self.recipe
        if recipe.model.scratch is None and not Path(as_folder(str(recipe.model.name))).is_dir():
            raise NotChecked(_ON_HUB)
        if recipe.model.scratch is not None:
            self._need(self.sets, "data")
        # The sets are used only to train a tokenizer.
        sets = self.sets or Sets(name="", forget=RowSet("", ()), retain=None)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = tokenizer_of(recipe, sets, Path(folder))
        self.template = make_template(recipe, tokenizer)
        try:
            self.template.full_text("Is this a question?", "Yes.")
        except jinja2.TemplateError as error:
            raise IncompatibleError(
                f"the tokenizer's chat template rejects the prompt: {error}.",
                fix="Leave out prompt.system if the template has no system message, or set prompt.style=plain.",
            ) from error
        if self.model is not None:
            check_tokenizer(self.model, tokenizer, str(recipe.model.name or "the scratch model"))
        return f"{len(tokenizer)} tokens, prompt style {recipe.prompt.style}"

    def check_rows(self) -> str:
        """Encode every row that is trained on, and compare the longest with the model's context."""
        sets, template = self._need(self.sets, "data"), self._need(self.template, "tokenizer")
        row_sets = [rows for rows in (sets.forget, sets.retain, sets.holdout, sets.always) if rows is not None]
        encoded = [row for rows in row_sets for row in template.encode_set(rows)]
        longest = max(encoded, key=lambda row: len(row.ids))
        limit = context_length(self._need(self.model, "model").config.get_text_config())
        if len(longest.ids) > limit:
            raise DataError(
                f"the row '{longest.row}' has {len(longest.ids)} tokens; the model's context is {limit}.",
                fix="Shorten the row or use a model with a longer context.",
            )
        return f"the longest has {len(longest.ids)} tokens, of at most {min(limit, template.max_length)}"

    def check_benchmark(self, benchmark: Any) -> str:
        """Count what the benchmark would score and generate on these sets."""
        plan = benchmark.plan(self._need(self.sets, "data"))
        return f"{len(plan.score)} texts to score, {len(plan.generate)} answers to generate"

    def check_retain_model(self) -> str:
        """Read a retain model's stored evaluation or weight files, and compare prompt and tokens with the model's."""
        name = str(self.recipe.model.retain_model)
        if name.endswith(".json"):
            for benchmark in self.recipe.evaluate.benchmarks:
                rows, settings = benchmark.read_stored(Path(name))
                if self.template is not None and self.model is not None:
                    check_same_settings(comparable_facts(self.template, self.model.config), settings)
            return f"a stored evaluation of {len(rows)} rows" if self.recipe.evaluate.benchmarks else "not used"
        name = as_folder(name)
        loading.check_model_folder(name)
        if not Path(name).is_dir():
            raise NotChecked(_ON_HUB)
        section = Model(name=name, trust_remote_code=self.recipe.model.trust_remote_code)
        adapter = adapter_of(section, online=False)
        if adapter is not None and not Path(adapter.base).is_dir():
            raise NotChecked(_ON_HUB)
        if self.template is not None:
            check_same_tokens(name, "retain model", section, self.template)
        return _check_weights(name, adapter, meta_model(section, online=False, trained=False))

    @staticmethod
    def _need(value: Any, name: str) -> Any:
        if value is None:
            raise NotChecked(f"it needs the result of the check '{name}'")
        return value


def _check_module_names(setting: str, names: Iterable[str], modules: set[str]) -> None:
    """Raise if a setting names a module, or the end of a module's path, that the model does not have."""
    for name in names:
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            raise IncompatibleError(
                f"{setting}: the model has no module '{name}'.",
                fix=nearest(name, {module.rsplit(".", 1)[-1] for module in modules}),
            )


def _check_weights(name: str, adapter: SavedAdapter | None, model: Any) -> str:
    """Raise if the weight files of a model, or of an adapter and its base model, do not fit; return a summary."""
    if adapter is None:
        return _check_weight_files(Path(name), model)
    count = check_shapes(model, adapter)
    base = _check_weight_files(Path(adapter.base), model) if Path(adapter.base).is_dir() else f"base model: {_ON_HUB}"
    return f"{base}; {count} tensors of the adapter fit"


def _check_weight_files(folder: Path, model: Any) -> str:
    """Raise if a folder's weight files are damaged or do not fit a model; return a summary."""
    from safetensors import SafetensorError, safe_open

    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name != ADAPTER_WEIGHTS]
    if not files:
        raise DataError(f"the folder {folder} has no weights (*.safetensors).", fix="Download it again.")
    num_matching = 0
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:  # type: ignore[no-untyped-call]
                for name in weights.keys():  # noqa: SIM118 - not a dictionary
                    shape = tuple(weights.get_slice(name).get_shape())
                    num_matching += name in expected
                    if expected.get(name, shape) != shape:
                        raise DataError(
                            f"{file}: {name} has shape {shape}, but {expected[name]} by config.json.",
                            fix="The folder mixes files of two models; copy or download it again.",
                        )
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{file} is damaged or not safetensors ({error}).", fix="Copy or download it again."
            ) from error
    return f"{len(files)} complete file{'s' if len(files) > 1 else ''}, {num_matching} tensors of the expected shape"
