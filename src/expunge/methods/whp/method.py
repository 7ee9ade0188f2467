"""Who's Harry Potter: fine-tune on the forget text, relabelled with what anyone would have written there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from expunge.config.defaults import changed
from expunge.config.recipe import Train
from expunge.data.anchors.dictionary import read_anchors
from expunge.errors import IncompatibleError
from expunge.methods.base import FineTuning, Needs, Preparation, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.data.sets import RowSet
    from expunge.data.templates import Encoded
    from expunge.modeling.step import Step


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileAnchors(_Section):
    """Anchors that someone has written down."""

    source: Literal["file"]
    path: str
    """JSON: {"expression": ["stand-in", ...], ...}."""


class CorpusAnchors(_Section):
    """Anchors by comparing the forget text with the retain text; needs no model and no service."""

    source: Literal["corpus"] = "corpus"
    num: int = Field(default=1500, ge=1)
    """Keep at most this many."""
    min_count: int = Field(default=4, ge=1)
    """Fewest occurrences in the forget text."""
    ratio: float = Field(default=8.0, gt=0)
    """How many times as frequent as in the retain text."""
    stand_ins: int = Field(default=4, ge=1)
    """Stand-ins per anchor."""
    rare_words: bool = True
    """Not only names: also nouns that are frequent in the forget text alone."""


class ServiceAnchors(_Section):
    """Anchors from a language model behind an OpenAI-compatible address; it gets to read the forget text."""

    source: Literal["service"]
    base_url: str = Field(pattern=r"^https?://")
    """Address up to the version, such as http://localhost:8000/v1."""
    model: str
    """Name of the model as the service knows it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key (never the key itself)."""
    chunk_characters: int = Field(default=4000, ge=200)
    """Text per request."""
    attempts: int = Field(default=5, ge=1)
    """Tries per request."""
    backoff_seconds: float = Field(default=2.0, ge=0)
    """Wait after the first failure; it doubles with each further one."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest wait for one reply."""


class TargetAnchors(_Section):
    """Anchors from the target itself, asked on this machine; for instruction-tuned models."""

    source: Literal["target"]
    chunk_characters: int = Field(default=4000, ge=200)
    """Text per prompt."""
    max_new_tokens: int = Field(default=1024, ge=16)
    """Longest reply."""


AnchorSource = Annotated[FileAnchors | CorpusAnchors | ServiceAnchors | TargetAnchors, Field(discriminator="source")]


class Reinforce(Train):
    """How the reinforced model is trained on the forget text, in blocks of `context` tokens."""

    epochs: float | None = Field(default=3.0, gt=0)
    lr: float = Field(default=3e-6, gt=0)
    batch_size: int = Field(default=128, ge=1)
    """Blocks per optimiser step: 8 on a device, 16 times accumulated, in the paper."""
    warmup_epochs: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _length_is_context(self) -> Reinforce:
        if changed(self, "max_length", "retain_pairing"):
            raise ValueError("max_length and retain_pairing have no effect here; blocks have `context` tokens")
        return self


class WHP(RetainMethod):
    """Who's Harry Potter: learn generic continuations of the forget text in place of the true ones.

    v_generic = v_base(translated) - alpha * ReLU(v_reinforced - v_base(translated))
    L = CE(model(original), argmax v_generic), the mean over all labelled tokens
        + retain_weight * L_retain, 0 as published

    The reinforced model is the target trained further on the forget text, so that what it raises is what belongs to
    that text. In the translated text every anchor (a name, a place, an invented word) has a generic stand-in. Where
    anchors are missed or stand-ins do not fit, knowledge stays or odd sentences are learnt: read the anchors
    (`prepared/anchors.json`) and the labels (`expunge show-labels RUN`). Without a retain term, stop early: labels of
    one token each make the model surer of itself on all text, and a small model most.
    """

    paper: ClassVar[str] = "Eldan & Russinovich 2023, arXiv:2310.02238, equation 1"

    retain_weight: float = Field(default=0.0, ge=0)
    """Weight of a retain term, which the published method does not have."""
    alpha: float = Field(default=5.0, ge=0)
    """How much of what the reinforced model raises is taken away."""
    context: int = Field(default=512, ge=8)
    """Tokens per block."""
    learn: Literal["all", "changed"] = "all"
    """Labels that are learnt: all of them, as published, or only those that differ from what the base model says
    anyway (ours: single-token labels make a small model surer of itself on all text, and these less so)."""
    anchors: AnchorSource = CorpusAnchors()
    """Where the anchor dictionary comes from."""
    reinforce: Reinforce = Reinforce()
    """How the reinforced model is trained."""

    def files(self) -> list[str]:
        """The anchor dictionary, where it is a file."""
        own = [str(Path(self.anchors.path).expanduser())] if isinstance(self.anchors, FileAnchors) else []
        return [*super().files(), *own]

    def check_files(self) -> None:
        """Read the anchor dictionary, where it is a file."""
        if isinstance(self.anchors, FileAnchors):
            read_anchors(Path(self.anchors.path).expanduser())

    def needs(self) -> Needs:
        """Declare the sets of the base class and the fine-tuning of the reinforced model."""
        return replace(super().needs(), trainings={"reinforce": FineTuning(self.reinforce, block_tokens=self.context)})

    def forget_loss(self, step: Step) -> Tensor:
        """Cross-entropy of the generic labels."""
        return step.nll("forget")

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Reinforced model, anchors and labels; each is kept in the run's folder and made once.

        Raises:
            IncompatibleError: Blocks are longer than the model's context.
            DataError: The anchors cannot be read or made.
        """
        from expunge.data.blocks import cut_blocks
        from expunge.methods.whp import preparation as work

        blocks = cut_blocks(preparation.sets.forget, preparation.template, self.context)
        stored = preparation.folder / "labels.parquet"
        if not work.is_there(stored):
            anchors = work.anchor_dictionary(self.anchors, preparation)
            reinforced = preparation.fine_tune("reinforced", [block.encoded for block in blocks], self.reinforce)
            _check_context(self.context, reinforced)
            labels = work.make_labels(preparation, blocks, anchors, reinforced, self.alpha)
            del reinforced
            work.write_labels(stored, blocks, labels, preparation.template.tokenizer)
        return {"forget": work.labelled_rows(blocks, work.read_labels(stored, only_changed=self.learn == "changed"))}


def offset_processor(reinforced: Any, alpha: float = 1.0, attention_mask: Tensor | None = None) -> Any:
    """Who's Harry Potter without training: a logits processor for `generate` of the base model.

    v = v_base - alpha * ReLU(v_reinforced - v_base), at every generated token.

    Args:
        reinforced: The base model trained further on the forget text.
        alpha: How much of the rise is taken away.
        attention_mask: (B, L) mask of the prompts, where they are padded on the left.

    References:
        The baseline `whp` of MUSE, Shi et al. 2024, arXiv:2407.06460.
    """
    from expunge.methods.whp.logits import OffsetProcessor

    return OffsetProcessor(reinforced, alpha, attention_mask)


def _check_context(context: int, model: Any) -> None:
    from expunge.modeling.load import context_length

    limit = context_length(model.config)
    if context > limit:
        raise IncompatibleError(
            f"method.context: blocks of {context} tokens are longer than the model's context of {limit}.",
            fix=f"Set method.context={limit} or less.",
        )
