"""Checks of what a recipe points at: the model's shape and files, the tokenizer, the data, the retain model."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from expunge.checks.report import NotChecked
from expunge.config.recipe import Recipe
from expunge.data.prepare import is_local, prepare_sets
from expunge.data.sets import RowSet, Sets, num_rows
from expunge.data.templates import Template
from expunge.errors import DataError, IncompatibleError, UserError, nearest
from expunge.modeling import load as loading
from expunge.modeling.adapters import add_lora
from expunge.modeling.architectures import known_models, meta_model
from expunge.modeling.load import check_pair, context_length
from expunge.modeling.tokenizers import make_template, tokenizer_of
from expunge.services.hub import hub_reachable

_UNREACHABLE = "the hub is out of reach"
_LATER = "it is on the hub; the run reads it"


def input_checks(recipe: Recipe) -> list[tuple[str, Callable[[], str]]]:
    """Name and function of each check, in the order in which they build on each other."""
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
    """What a recipe points at, loaded once; a check that needs what could not be loaded says so."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model: Any = None
        self.sets: Sets | None = None
        self.template: Template | None = None

    def check_model(self) -> str:
        """Build the model without weights."""
        model = self.recipe.model
        name, online, how = model.name, False, "built here"
        if name is not None:
            loading.check_model_folder(name)
            how = "from its config.json"
            if not Path(name).exists():
                known = name in known_models()
                online = not known and hub_reachable()
                how = "known without the hub" if known else "config from the hub"
        try:
            self.model = meta_model(model, online=online)
        except DataError as error:
            if name is None or Path(name).exists() or online:
                raise
            raise NotChecked(f"{_UNREACHABLE}, and {name} is not in its local cache") from error
        count = sum(parameter.numel() for parameter in self.model.parameters())
        layers = self.model.config.get_text_config().num_hidden_layers
        return f"{self.model.config.model_type}, {count:,} parameters, {layers} layers ({how})"

    def check_weights(self) -> str:
        """Open local weight files as far as their headers and compare shapes."""
        name = self.recipe.model.name
        if name is None:
            raise NotChecked("the weights are trained in the run")
        if not Path(name).is_dir():
            raise NotChecked(_LATER)
        return _weights(Path(name), self._need(self.model, "model"))

    def check_modules(self) -> str:
        """Layers, modules and LoRA targets that settings name are in the model."""
        model, recipe = self._need(self.model, "model"), self.recipe
        found = _method_places(recipe, model)
        lora = recipe.model.lora
        if lora is not None:
            names = [name for name, _ in model.named_modules()]
            for target in lora.targets if isinstance(lora.targets, list) else []:
                if not any(name == target or name.endswith(f".{target}") for name in names):
                    raise IncompatibleError(
                        f"model.lora.targets: no module of this model is called '{target}'.",
                        fix=nearest(target, {name.rsplit(".", 1)[-1] for name in names if name}),
                    )
            adapted = add_lora(model, lora, recipe.seed)
            count = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
            self.model = adapted.unload()
            found.append(f"LoRA trains {count:,} parameters")
        if not found:
            raise NotChecked("no setting names a layer or module")
        return "; ".join(found)

    def check_data(self) -> str:
        """Read every row of local data."""
        if not is_local(self.recipe):
            raise NotChecked(_LATER)
        self.sets = prepare_sets(self.recipe.data)
        return ", ".join(f"{count} {name}" for name, count in num_rows(self.sets).items())

    def check_tokenizer(self) -> str:
        """Load or train the tokenizer and see whether it can write the prompts."""
        recipe = self.recipe
        if recipe.model.scratch is None and not Path(str(recipe.model.name)).is_dir():
            raise NotChecked(_LATER)
        if recipe.model.scratch is not None:
            self._need(self.sets, "data")
        # A tokenizer loaded from a folder does not look at the sets.
        sets = self.sets or Sets(name="", forget=RowSet("", ()), retain=None)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = tokenizer_of(recipe, sets, Path(folder))
        self.template = make_template(recipe, tokenizer)
        try:
            self.template.full_text("Is this a question?", "Yes.")
        except jinja2.TemplateError as error:
            raise IncompatibleError(
                f"the tokenizer's chat template refuses the prompt: {error}.",
                fix="Leave out prompt.system if it takes none, or set prompt.style=plain.",
            ) from error
        if self.model is not None:
            check_pair(self.model, tokenizer, str(recipe.model.name or "the scratch model"))
        return f"{len(tokenizer)} tokens, prompt style {recipe.prompt.style}"

    def check_rows(self) -> str:
        """Encode every row that is trained on, and find the longest."""
        sets, template = self._need(self.sets, "data"), self._need(self.template, "tokenizer")
        parts = [part for part in (sets.forget, sets.retain, sets.holdout, sets.always) if part is not None]
        longest = max((item for part in parts for item in template.encode_set(part)), key=lambda e: len(e.ids))
        limit = context_length(self._need(self.model, "model").config.get_text_config())
        if len(longest.ids) > limit:
            raise DataError(
                f"the row '{longest.row}' has {len(longest.ids)} tokens; the model's context is {limit}.",
                fix="Shorten the row or take a model with a longer context.",
            )
        return f"the longest has {len(longest.ids)} of at most {min(limit, template.max_length)} tokens"

    def check_benchmark(self, benchmark: Any) -> str:
        """Ask the benchmark what it would measure on these sets."""
        plan = benchmark.plan(self._need(self.sets, "data"))
        return f"{len(plan.score)} texts to score, {len(plan.generate)} answers to generate"

    def check_retain_model(self) -> str:
        """Read a stored retain model, or look at the retain model's folder."""
        name = str(self.recipe.model.retain_model)
        if name.endswith(".json"):
            for benchmark in self.recipe.evaluate.benchmarks:
                rows, _ = benchmark.read_stored(Path(name))
            return f"a stored evaluation of {len(rows)} rows" if self.recipe.evaluate.benchmarks else "not used"
        loading.check_model_folder(name)
        if not Path(name).is_dir():
            raise NotChecked(_LATER)
        retain_model = meta_model(self.recipe.model.model_copy(update={"name": name, "scratch": None}), online=False)
        return _weights(Path(name), retain_model)

    @staticmethod
    def _need(value: Any, name: str) -> Any:
        if value is None:
            raise NotChecked(f"it builds on the check '{name}'")
        return value


def _weights(folder: Path, model: Any) -> str:
    from safetensors import SafetensorError, safe_open

    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"the folder {folder} holds no weights (*.safetensors).", fix="Download it again.")
    matched = 0
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
                for name in opened.keys():  # noqa: SIM118 - not a dictionary
                    shape = tuple(opened.get_slice(name).get_shape())
                    matched += name in expected
                    if expected.get(name, shape) != shape:
                        raise DataError(
                            f"{file}: {name} has shape {shape}; config.json says {expected[name]}.",
                            fix="The folder mixes files of two models; copy or download it again.",
                        )
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{file} is damaged or not safetensors ({error}).", fix="Copy or download it again."
            ) from error
    return f"{len(files)} whole file{'s' if len(files) > 1 else ''}, {matched} tensors of the right shape"


def _method_places(recipe: Recipe, model: Any) -> list[str]:
    """Check what the method would train, and the layers and modules that it declares in `needs`."""
    method, found = recipe.method, list[str]()
    chosen = method.trainable(model)
    if chosen is not None:
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        found.append(f"{len(chosen)} tensors of {sum(sizes[name] for name in chosen):,} parameters are trained")
    needs, layers = method.needs(), model.config.get_text_config().num_hidden_layers
    for setting, indices in needs.layers.items():
        outside = [index for index in indices if not -layers <= index < layers]
        if outside:
            raise IncompatibleError(
                f"method.{setting}: {outside[0]} is outside the model, which has layers 0 to {layers - 1}."
            )
        found.append(f"method.{setting} is inside the model")
    names = {name for name, _ in model.named_modules() if name}
    for setting, modules in needs.modules.items():
        for module in modules:
            if not any(name == module or name.endswith(f".{module}") for name in names):
                raise UserError(
                    f"method.{setting}: no module of this model is called '{module}'.",
                    fix=nearest(module, {name.rsplit(".", 1)[-1] for name in names}),
                )
        found.append(f"method.{setting} is inside the model")
    return found
