"""What the RMU family shares: settings, the control vectors, and the objective that steers hidden states."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.errors import IncompatibleError, nearest
from expunge.methods.base import Forward, Method, Needs, Objective, Start

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.hidden.row_store import RowStore
    from expunge.modeling.hidden.trace import FrozenLayers
    from expunge.modeling.step import LossTerms, Step


class SteeringMethod(Method):
    """Steers the hidden states of forget text at one layer and holds those of retain text where they were."""

    layer: int = Field(default=7, ge=0)
    """Decoder layer whose output is steered, from 0; the paper takes 7 of 32."""
    update_layers: list[int] = Field(default=[5, 6, 7], min_length=1)
    """Layers that are trained; none may lie above `layer`."""
    update_modules: list[str] = Field(default=["mlp.down_proj.weight"], min_length=1)
    """Parameters of those layers that are trained; * stands for anything."""
    alpha: list[float] = Field(default=[1200.0], min_length=1)
    """Weight of the retain term, per topic; a single value holds for all."""
    positions: Literal["all", "labels"] = "all"
    """Means over every position, with first token and padding, as published; or over the answers' own tokens."""
    store_gib: float = Field(default=2.0, ge=0)
    """GiB of main memory, per process, for hidden states of rows that come again, which are then read, not computed: 4
    bytes x tokens x width for a forget row (none if layer 0 is trained), and as much again for a retain row. A row
    that finds no place is computed again; 0 keeps none."""

    @model_validator(mode="after")
    def _layers_matter(self) -> SteeringMethod:
        above = [layer for layer in self.update_layers if layer > self.layer]
        if above:
            raise ValueError(
                f"update_layers: training layer {above[0]} has no effect on the output of layer {self.layer}"
            )
        return self

    def needs(self) -> Needs:
        """Declare forget rows of one topic per batch, retain rows, and a pass up to `layer` for each set."""
        # Below layer 0 there is no frozen layer whose output could be stored for rows without a comparison.
        stored = ("forget", "retain") if min(self.update_layers) > 0 else ("retain",)
        return Needs(
            sets=("forget", "retain"),
            by_topic=True,
            forward=Forward(
                last_layer=self.layer,
                padded=self.positions == "all",
                joint=False,
                compared=("retain",),
                stored=stored,
                store_bytes=int(self.store_gib * 2**30),
            ),
            layers={"layer": [self.layer], "update_layers": self.update_layers},
        )

    def trainable(self, model: Any) -> list[str]:
        """Names of the parameters that `update_layers` and `update_modules` point at.

        Raises:
            IncompatibleError: A layer is not in the model, a pattern matches nothing, or an adapter is in the way.
        """
        from expunge.modeling.hidden.trace import check_layers, layer_list

        prefix, layers = layer_list(model)
        here = self.layer_in(len(layers))
        check_layers(model, "method.layer", [self.layer], here)
        check_layers(model, "method.update_layers", self.update_layers, here)
        chosen: list[str] = []
        for index in sorted(set(self.update_layers)):
            names = [name for name, _ in layers[index].named_parameters()]
            if any(".base_layer." in name for name in names):
                raise IncompatibleError(
                    f"{self.name} trains the model's own matrices, so an adapter (model.lora) has no effect.",
                    fix="Remove model.lora; three matrices take little memory.",
                )
            for pattern in self.update_modules:
                found = [name for name in names if fnmatchcase(name, pattern)]
                if not found:
                    raise IncompatibleError(
                        f"method.update_modules: '{pattern}' matches no parameter of {prefix}.{index}.",
                        allowed=f"It has {', '.join(names)}.",
                        fix=nearest(pattern, names) if nearest(pattern, names).startswith("Did") else "",
                    )
                chosen += [f"{prefix}.{index}.{name}" for name in found]
        return list(dict.fromkeys(chosen))

    @staticmethod
    def layer_in(count: int) -> str:
        """The published choice, carried over to a model of another depth."""
        low = min(7 * count // 32, count - 1)
        here = f"{low}" if 7 * count % 32 == 0 or low + 1 >= count else f"{low} or {low + 1}"
        return f"The RMU paper steers layer 7 of 32 and trains 5 to 7; here try layer {here} and up to two below it."

    def check_topics(self, topics: tuple[str, ...], **settings: list[float]) -> None:
        """Refuse lists that are neither one value nor one per topic.

        Raises:
            IncompatibleError: A list has another length.
        """
        for name, values in {"alpha": self.alpha, **settings}.items():
            if len(values) not in {1, len(topics)}:
                raise IncompatibleError(
                    f"method.{name} has {len(values)} values for {len(topics)} topics ({', '.join(topics)}).",
                    fix="Give one value for all, or one for each topic in their order.",
                )


class SteeringObjective(Objective):
    """RMU's loss around control vectors that are fixed before the first step.

    Args:
        method: The settings.
    """

    def __init__(self, method: SteeringMethod) -> None:
        self.method = method
        self.frozen: FrozenLayers
        self.store: RowStore | None = None
        self.targets: dict[str, Tensor] = {}
        self.alphas: dict[str, float] = {}

    def start(self, start: Start) -> None:
        """Keep the weights that will change, and draw one direction per topic in order."""
        import torch

        from expunge.losses.representation import control_vector
        from expunge.modeling.hidden.trace import FrozenLayers

        self.method.check_topics(start.topics)
        self.frozen = FrozenLayers(start.model)
        self.store = self._make_store(start)
        generator = torch.Generator().manual_seed(start.seed)
        device, size = next(start.model.parameters()).device, start.model.config.get_text_config().hidden_size
        for index, topic in enumerate(start.topics):
            self.targets[topic] = control_vector(size, self.length(start, index), generator).to(device)
            self.alphas[topic] = _of_topic(self.method.alpha, index)

    def _make_store(self, start: Start) -> RowStore | None:
        """Room for the rows that come again, where there are any and their states stay the same.

        Raises:
            IncompatibleError: The setting was given, and would do nothing.
        """
        from expunge.distributed import fsdp_enabled
        from expunge.modeling.capabilities import can_store
        from expunge.modeling.hidden.row_store import GIB, RowStore, widest_padding

        method, padding = self.method, self.method.positions == "all"
        if method.store_gib == 0:
            return None
        stored = method.needs().forward.stored
        visits = {name: counts for name, counts in start.visits().items() if name in stored}
        useless = ""
        if not any(count > 1 for counts in visits.values() for count in counts.values()):
            useless = "no row of which something could be kept comes twice in this training"
        elif fsdp_enabled():
            useless = "with FSDP all processes have to run the same layers at the same time"
        elif not can_store(start.model, self.frozen.first, method.layer, padding):
            useless = "this model's layers give a row another state each time"
        if useless and changed(method, "store_gib"):
            raise IncompatibleError(f"method.store_gib has no effect: {useless}.", fix="Leave it out.")
        if useless:
            return None
        room = method.store_gib * GIB
        return RowStore(self.frozen.first, room, visits, padding=padding, widest=widest_padding(start.model))

    def length(self, start: Start, topic: int) -> float:
        """Length of a topic's control vector."""
        raise NotImplementedError

    def __call__(self, step: Step) -> LossTerms:
        """Steer the forget rows, hold the retain rows."""
        from expunge.modeling.step import LossTerms

        if self.method.positions == "all":
            step.keep_padding()
        target = self.targets[step.topic]
        steered = self.steered(step)
        held, frozen = step.layer("retain", self.method.layer, self.frozen, self.store)
        assert frozen is not None
        return LossTerms(
            {
                "forget": self._distance(step, "forget", steered, target),
                "retain": self.alphas[step.topic] * self._distance(step, "retain", held, frozen),
            },
            self._metrics(step, steered.detach(), held.detach(), target, frozen),
        )

    def steered(self, step: Step) -> Tensor:
        """(B, L, D) hidden states of the forget rows that the loss moves."""
        return step.layer("forget", self.method.layer, store=self.store)[0]

    def _distance(self, step: Step, name: str, hidden: Tensor, target: Tensor) -> Tensor:
        from expunge.losses.representation import squared_distance

        values = squared_distance(hidden, target)
        return step.position_mean(values, name) if self.method.positions == "all" else step.answer_mean(values, name)

    @staticmethod
    def _metrics(step: Step, steered: Tensor, held: Tensor, target: Tensor, frozen: Tensor) -> dict[str, Tensor]:
        """Without the first token, whose huge hidden state would hide everything else."""
        from expunge.losses.representation import cosine, relative_distance

        return {
            "forget_cosine": step.answer_mean(cosine(steered, target), "forget"),
            "retain_distance": step.answer_mean(relative_distance(held, frozen), "retain"),
        }


class FixedLength(SteeringMethod):
    """Steering to control vectors whose length is a setting."""

    c: list[float] = Field(default=[6.5], min_length=1)
    """Length of the vector that hidden states are steered to, per topic; a single value holds for all."""

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Control vectors of length c."""
        return FixedLengthObjective(self)


class FixedLengthObjective(SteeringObjective):
    """The objective with control vectors of length c."""

    method: FixedLength

    def start(self, start: Start) -> None:
        """Check that c fits the topics."""
        self.method.check_topics(start.topics, c=self.method.c)
        super().start(start)

    def length(self, start: Start, topic: int) -> float:
        """The setting c."""
        return _of_topic(self.method.c, topic)


def _of_topic(values: list[float], topic: int) -> float:
    return values[0] if len(values) == 1 else values[topic]
