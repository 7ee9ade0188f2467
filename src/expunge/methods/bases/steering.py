"""Settings that methods of the RMU family share."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.errors import IncompatibleError, nearest
from expunge.methods.base import Forward, Method, Needs, Start

if TYPE_CHECKING:
    from expunge.modeling.hidden.steering_pass import SteeringPass


class SteeringMethod(Method):
    """A method that steers hidden states of forget text at one layer and preserves those of retain text."""

    layer: int = Field(default=7, ge=0)
    """Decoder layer whose output is steered, from 0; the paper uses 7 of 32."""
    update_layers: list[int] = Field(default=[5, 6, 7], min_length=1)
    """Layers that are trained; none may be above `layer`."""
    update_modules: list[str] = Field(default=["mlp.down_proj.weight"], min_length=1)
    """Parameters of those layers that are trained; * matches anything."""
    alpha: list[float] = Field(default=[1200.0], min_length=1)
    """Weight of the retain term, per topic; a single value applies to all."""
    positions: Literal["all", "labels"] = "all"
    """Mean over every position, first token and padding included, as published; or over answer tokens only. All padding
    of a row has the position of its last token here; published code pads on the left and counts on, so the values at
    padding differ."""
    store_gib: float = Field(default=2.0, ge=0)
    """GiB of CPU memory, per process, to store hidden states of rows that are visited again: 4 bytes x tokens x width
    for a forget row (none if layer 0 is trained), and as much again for a retain row. Rows that do not fit are
    computed again; 0 stores none."""

    @model_validator(mode="after")
    def _layers_have_effect(self) -> SteeringMethod:
        above = [layer for layer in self.update_layers if layer > self.layer]
        if above:
            raise ValueError(
                f"update_layers: training layer {above[0]} has no effect on the output of layer {self.layer}"
            )
        return self

    def needs(self) -> Needs:
        """Declare forget rows of one topic per batch, retain rows, and a pass up to `layer` for each set."""
        # Forget rows have no frozen hidden states to store, only the input of the lowest trained layer.
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
        """Return the names of the parameters that `update_layers` and `update_modules` select.

        Raises:
            IncompatibleError: A layer is not in the model, a pattern matches nothing, or the model has an adapter.
        """
        from expunge.modeling.hidden.trace import check_layers, layer_list

        prefix, layers = layer_list(model)
        # The published choice, scaled to the depth of this model.
        count = len(layers)
        low = min(7 * count // 32, count - 1)
        scaled = f"{low}" if 7 * count % 32 == 0 or low + 1 >= count else f"{low} or {low + 1}"
        advice = (
            f"The RMU paper steers layer 7 of 32 and trains 5 to 7; here try layer {scaled} and up to two below it."
        )
        check_layers(model, "method.layer", [self.layer], advice)
        check_layers(model, "method.update_layers", self.update_layers, advice)
        chosen: list[str] = []
        for index in sorted(set(self.update_layers)):
            names = [name for name, _ in layers[index].named_parameters()]
            if any(".base_layer." in name for name in names):
                raise IncompatibleError(
                    f"{self.name} trains the model's own matrices, so an adapter (model.lora) has no effect.",
                    fix="Remove model.lora; three matrices take little memory.",
                )
            for pattern in self.update_modules:
                matches = [name for name in names if fnmatchcase(name, pattern)]
                if not matches:
                    raise IncompatibleError(
                        f"method.update_modules: '{pattern}' matches no parameter of {prefix}.{index}.",
                        allowed=f"It has {', '.join(names)}.",
                        fix=nearest(pattern, names) if nearest(pattern, names).startswith("Did") else "",
                    )
                chosen += [f"{prefix}.{index}.{name}" for name in matches]
        return list(dict.fromkeys(chosen))

    def control_norm(self, start: Start, topic: int) -> float:
        """Return the length of the control vector of a topic, by the topic's index."""
        raise NotImplementedError

    def steering_pass(self, start: Start) -> SteeringPass:
        """Return the forward passes up to `layer`, with a row store where it has an effect.

        Raises:
            IncompatibleError: `store_gib` was set and has no effect.
        """
        from expunge.modeling.hidden.steering_pass import SteeringPass

        steering, forward = SteeringPass(start.model, self.layer), self.needs().forward
        if forward.store_bytes:
            visits = {name: counts for name, counts in start.visits().items() if name in forward.stored}
            # Means over answer tokens ignore padding, even where it is computed.
            problem = steering.store_rows(
                visits, forward.store_bytes, padding=self.positions == "all", longest=start.longest
            )
            if problem and changed(self, "store_gib"):
                raise IncompatibleError(f"method.store_gib has no effect: {problem}.", fix="Leave it out.")
        return steering


def topic_value(setting: str, values: list[float], topics: tuple[str, ...], topic: int) -> float:
    """Return a setting's value for one topic; a single value applies to all topics.

    Args:
        setting: Name of the setting.
        values: One value, or one for each topic.
        topics: All topics in order.
        topic: Index of the topic.

    Raises:
        IncompatibleError: There are neither one value nor as many as topics.
    """
    if len(values) not in {1, len(topics)}:
        raise IncompatibleError(
            f"method.{setting} has {len(values)} values for {len(topics)} topics ({', '.join(topics)}).",
            fix="Give one value for all, or one for each topic in their order.",
        )
    return values[0] if len(values) == 1 else values[topic]
