"""GGUF files as models: the weights are dequantised once and saved as a folder with safetensors.

GGUF is the format of llama.cpp. transformers dequantises it for a number of architectures (Llama, Mistral, Qwen,
Gemma, Phi-3 and others). The weights of a quantised file differ slightly from the original model's: the result is the
model that llama.cpp runs, not the one that was published.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
import transformers

from expunge.console import note
from expunge.distributed import run_on_main
from expunge.errors import DataError, MissingExtraError, one_line
from expunge.reading import usable_path
from expunge.rundir import explain_disk_errors

_MAGIC = b"GGUF"
_DIGITS = 16


def as_folder(name: str) -> str:
    """Return the folder of a GGUF file's model, which is converted first if it was not; other names are unchanged.

    The weights are saved in float16, whose rounding is far smaller than that of the quantisation. Folders are kept in
    `${XDG_CACHE_HOME:-~/.cache}/expunge/gguf`, by the file's name and content, and can be deleted at any time.

    Args:
        name: Folder or hub id of a model, or path of a GGUF file.

    Raises:
        DataError: The file does not exist, is damaged, or has an architecture that transformers does not read.
        MissingExtraError: The package gguf is not installed.
    """
    path = usable_path(name)
    if path.suffix != ".gguf" or path.is_dir():
        return name
    if not path.is_file():
        raise DataError(f"the GGUF file {name} does not exist.", fix="Give the path of a file, or of a model's folder.")
    stat = path.stat()
    return str(_converted(path.resolve(), stat.st_size, stat.st_mtime_ns))


@functools.cache
def _converted(path: Path, size: int, modified: int) -> Path:
    """Return the folder of a file's model; called again if size or modification time change."""
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise DataError(f"{path} is not a GGUF file.", fix="Download it again, or give a model's folder.")
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGITS]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "expunge" / "gguf" / f"{path.stem}-{digest}"
    run_on_main(lambda: None if folder.is_dir() else _convert(path, folder))
    return folder


def _convert(path: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", f"reading {path}")
    note(f"Converting {path} to safetensors, once, in {folder}.")
    with explain_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Complete folders only, also after a kill: the last step is a rename.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
            made = Path(scratch) / "model"
            tokenizer, model = _load(path)
            model.to(torch.float16).save_pretrained(made)
            tokenizer.save_pretrained(made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)


def _load(path: Path) -> tuple[transformers.PreTrainedTokenizerBase, transformers.PreTrainedModel]:
    """Return the tokenizer and the model with dequantised weights."""
    place, file = str(path.parent), path.name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=file)
        model = transformers.AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    except Exception as error:
        # The reader of gguf raises errors of many types, down to IndexError, for damaged files.
        raise DataError(
            f"the GGUF file {path} cannot be read: {one_line(error)}",
            fix="Download it again, or give the original model's folder or hub id.",
        ) from error
    # The weights in memory are dequantised, but transformers still marks them as quantised and refuses to save them.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer, model.is_quantized = None, False
    model.__dict__.pop("quantization_method", None)
    return tokenizer, model
