"""Save a model so that its folder is either complete or absent."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from expunge.console import is_main_process
from expunge.distributed import wait
from expunge.modeling.adapters import subtract_initial_adapter
from expunge.modeling.fsdp import gather_full_model
from expunge.modeling.saved_adapters import SavedAdapter, join_adapters
from expunge.rundir import explain_disk_errors, replace_folder


def save_model(
    model: Any,
    tokenizer: Any,
    path: Path,
    adapter_start: Path | None = None,
    *,
    joined: SavedAdapter | None = None,
    merged: bool = False,
) -> None:
    """Write weights (safetensors) and tokenizer; every process must call this.

    Args:
        model: A model, or one with an adapter, of which only the adapter is written.
        tokenizer: Its tokenizer.
        path: The folder; an existing one is replaced.
        adapter_start: Folder of the adapter's initial values, where these were taken out of the weights. The adapter
            is then written so that it applies to the original weights.
        joined: An adapter that the model contains, merged or stacked. Both are then written as one adapter of the
            base model, so that the folder can be loaded by itself.
        merged: Merge the adapter into the weights first, and write the weights.
    """
    adapted = hasattr(model, "merge_and_unload")
    model = gather_full_model(model, trained_only=adapted and not merged)
    if is_main_process():
        if adapted and merged:
            model = model.merge_and_unload()
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
                new = Path(temporary) / path.name
                model.save_pretrained(new, safe_serialization=True)
                if adapter_start is not None:
                    subtract_initial_adapter(new, adapter_start)
                if joined is not None:
                    join_adapters(new, joined)
                tokenizer.save_pretrained(new)
                replace_folder(new, path)
    wait()
