"""Settings, loss and preparation of Who's Harry Potter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.config.recipe import Section, Train
from expunge.data.anchors.dictionary import read_anchors
from expunge.errors import IncompatibleError
from expunge.methods.base import FineTuning, Needs, Preparation, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.data.sets import RowSet
    from expunge.data.templates import Encoded
    from expunge.modeling.step import Step


class FileAnchors(Section):
    """Anchors from a file."""

    source: Literal["file"]
    path: str
    """JSON file: {"anchor": ["stand-in", ...], ...}."""


class CorpusAnchors(Section):
    """Anchors from a comparison of forget and retain text; needs no model and no service."""

    source: Literal["corpus"] = "corpus"
    num: int = Field(default=1500, ge=1)
    """Maximum number of anchors."""
    min_count: int = Field(default=4, ge=1)
    """Minimum number of occurrences in the forget text."""
    ratio: float = Field(default=8.0, gt=0)
    """Minimum ratio of the frequency in the forget text to that in the retain text."""
    stand_ins: int = Field(default=4, ge=1)
    """Stand-ins per anchor."""
    rare_words: bool = True
    """Whether nouns that are frequent only in the forget text are anchors, in addition to names."""


class ServiceAnchors(Section):
    """Anchors from a language model behind an OpenAI-compatible address, to which the forget text is sent."""

    source: Literal["service"]
    base_url: str = Field(pattern=r"^https?://")
    """Address including the version, such as http://localhost:8000/v1."""
    model: str
    """Name of the model at the service."""
    api_key_env: str | None = None
    """Name of the environment variable with the API key (never the key itself)."""
    chunk_characters: int = Field(default=4000, ge=200)
    """Characters of forget text per request."""
    attempts: int = Field(default=5, ge=1)
    """Attempts per request."""
    backoff_seconds: float = Field(default=2.0, ge=0)
    """Delay after the first failure; doubled after each further one."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Time limit of one reply."""


class TargetAnchors(Section):
    """Anchors from the target itself, prompted on this machine; for instruction-tuned models."""

    source: Literal["target"]
    chunk_characters: int = Field(default=4000, ge=200)
    """Characters of forget text per prompt."""
    max_new_tokens: int = Field(default=1024, ge=16)
    """Maximum length of a reply in tokens."""


AnchorSource = Annotated[FileAnchors | CorpusAnchors | ServiceAnchors | TargetAnchors, Field(discriminator="source")]


class Reinforce(Train):
    """Training of the reinforced model on the forget text, in blocks of `context` tokens."""

    epochs: float | None = Field(default=3.0, gt=0)
    lr: float = Field(default=3e-6, gt=0)
    batch_size: int = Field(default=128, ge=1)
    """Blocks per optimiser step; the paper has 8 per device and 16 accumulation steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _length_is_context(self) -> Reinforce:
        if without_effect := changed(self, "max_length", "retain_pairing", "learn_padding"):
            raise ValueError(f"{without_effect[0]} has no effect here; blocks have `context` tokens and no padding")
        return self


class WHP(RetainMethod):
    """Who's Harry Potter: learn generic continuations of the forget text in place of the true ones.

    v_generic = v_baseline(translated) - alpha * ReLU(v_reinforced - v_baseline(translated))
    L = CE(model(original), argmax v_generic), the mean over all labelled tokens
        + retain_weight * L_retain, 0 as published

    The baseline model is the target. The reinforced model is the target trained further on the forget text, so the
    tokens whose logits it raises are specific to that text. In the translated text every anchor (a name, a place, an
    invented word) is replaced by a generic stand-in.

    Missing anchors leave knowledge behind and unfitting stand-ins teach odd sentences: read the anchors
    (`prepared/anchors.json`) and the labels (`expunge show-labels RUN`). Without a retain term, stop early: one-token
    labels make the model more confident on all text, small models most.
    """

    paper: ClassVar[str] = "Eldan & Russinovich 2023, arXiv:2310.02238, equation 1"

    retain_weight: float = Field(default=0.0, ge=0)
    """Weight of a retain term, which the published method does not have."""
    alpha: float = Field(default=5.0, ge=0)
    """Factor on the reinforced model's rise in logits."""
    context: int = Field(default=512, ge=8)
    """Tokens per block."""
    learn: Literal["all", "changed"] = "all"
    """Labels in the loss: all, as published, or only those that differ from the target's prediction (ours: reduces the
    confidence that one-token labels add on all text)."""
    anchors: AnchorSource = CorpusAnchors()
    """Source of the anchor dictionary."""
    reinforce: Reinforce = Reinforce()
    """Training of the reinforced model."""

    def files(self) -> list[str]:
        """Return the files that settings name, with the anchor dictionary if it is a file."""
        anchor_files = [str(Path(self.anchors.path).expanduser())] if isinstance(self.anchors, FileAnchors) else []
        return [*super().files(), *anchor_files]

    def check_files(self) -> None:
        """Read the anchor dictionary if it is a file, so that errors appear before any training.

        Raises:
            DataError: The file is missing or not an anchor dictionary.
        """
        if isinstance(self.anchors, FileAnchors):
            read_anchors(Path(self.anchors.path).expanduser())

    def needs(self) -> Needs:
        """Declare the sets of the base class and the fine-tuning of the reinforced model."""
        return replace(super().needs(), trainings={"reinforce": FineTuning(self.reinforce, block_tokens=self.context)})

    def forget_loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the generic labels."""
        return step.nll("forget")

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Return blocks with generic labels; anchors, reinforced model and labels are cached in the run's folder.

        Raises:
            IncompatibleError: Blocks are longer than the model's context.
            DataError: The anchors cannot be read or collected.
        """
        from expunge.data.blocks import cut_blocks
        from expunge.methods.whp.preparation import (
            anchor_dictionary,
            exists,
            labelled_rows,
            make_labels,
            read_labels,
            write_labels,
        )
        from expunge.modeling.load import context_length

        blocks = cut_blocks(preparation.sets.forget, preparation.template, self.context)
        path = preparation.folder / "labels.parquet"
        if not exists(path):
            anchors = anchor_dictionary(self.anchors, preparation)
            reinforced = preparation.fine_tune("reinforced", [block.encoded for block in blocks], self.reinforce)
            limit = context_length(reinforced.config)
            if self.context > limit:
                raise IncompatibleError(
                    f"method.context: blocks of {self.context} tokens are longer than the model's context of {limit}.",
                    fix=f"Set method.context={limit} or less.",
                )
            labels = make_labels(preparation, blocks, anchors, reinforced, self.alpha)
            # Free its memory before the training.
            del reinforced
            write_labels(path, blocks, labels, preparation.template.tokenizer)
        return {"forget": labelled_rows(blocks, read_labels(path, only_changed=self.learn == "changed"))}
