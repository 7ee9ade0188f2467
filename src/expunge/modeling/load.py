"""Loads tokenizers and models, or builds small ones from nothing; says plainly what is wrong with a model folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from expunge.config.recipe import Model, Scratch
from expunge.data.templates import Encoded
from expunge.distributed import full_tensor
from expunge.errors import DataError, IncompatibleError, NotHereError, UserError

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Template of models built here: the one that instruction-free base models are usually asked with."""


def device_of(config: Model) -> torch.device:
    """The device that a recipe asks for."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is 'cuda', but no CUDA device is visible here.", fix="Set model.device=auto.")
    return torch.device(config.device)


def frozen_device(config: Model) -> torch.device | None:
    """The device that a recipe asks for the start model's copy; None for that of the model.

    Raises:
        UserError: There is no such device here.
    """
    name = config.frozen_device
    if name is None:
        return None
    known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in known:
        raise NotHereError(
            f"model.frozen_device is '{name}', but there is no such device here.",
            allowed=f"Allowed: {', '.join(known)}.",
        )
    return torch.device(name)


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer from a folder or the hub.

    Raises:
        DataError: It does not exist or cannot be read.
    """
    _is_local_folder(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        raise DataError(f"the tokenizer of {name} cannot be loaded: {_first(error)}", fix=_hub_help(name)) from error


def load_model(
    name: str,
    *,
    config: Model,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Any:
    """Load a causal language model's safetensors weights from a folder or the hub.

    Raises:
        DataError: The weights are missing, truncated, not safetensors, or do not fill the model.
    """
    check_model_folder(name)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=dtype,
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise DataError(
            f"the weights of {name} are damaged or not safetensors ({error}).",
            fix="Copy or download the folder again; pickled checkpoints are never opened.",
        ) from error
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise DataError(f"the model {name} cannot be loaded: {_first(error)}", fix=_hub_help(name)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise DataError(
            f"the weights of {name} do not fill the model: {len(missing)} tensors are missing, such as {missing[0]}.",
            fix="The folder is incomplete, or its config.json belongs to another model.",
        )
    return model.to(device or torch.device("cpu"))


def build_scratch(scratch: Scratch, tokenizer: Any, seed: int, attention: str = "sdpa") -> Any:
    """A Llama with random weights; equal seeds give equal weights."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.num_layers,
        num_attention_heads=scratch.num_heads,
        num_key_value_heads=scratch.num_heads,
        max_position_embeddings=scratch.max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> Any:
    """A byte-level BPE tokenizer trained on the given texts, with padding, start and end tokens of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def pad_id_of(tokenizer: Any) -> int:
    """Id written into padding; any will do, because masks come from lengths."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def context_length(model_config: Any) -> int:
    """Longest sequence that a model has positions for."""
    return int(getattr(model_config, "max_position_embeddings", 0) or 1 << 20)


def check_pair(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer whose ids do not fit into the model's vocabulary."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise IncompatibleError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, but the model only {rows} embeddings.",
            fix="Use the tokenizer that the model was trained with.",
        )


def check_rows(model: Any, sets: Mapping[str, Sequence[Encoded]]) -> None:
    """Refuse rows that are longer than the model's context: it would be trained on positions that it does not know.

    Raises:
        DataError: The longest row of a set does not fit.
    """
    limit = context_length(model.config)
    for name, rows in sets.items():
        longest = max(rows, key=lambda row: len(row.ids), default=None)
        if longest is not None and len(longest.ids) > limit:
            raise DataError(
                f"the row '{longest.row}' of the set '{name}' has {len(longest.ids)} tokens, but the model's context "
                f"is {limit}.",
                fix="Shorten it, or choose a model with a longer context.",
            )


def model_hash(model: Any) -> str:
    """Content hash of the weights: one changed number gives another hash."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(full_tensor(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _is_local_folder(name: str) -> bool:
    """Whether a name is a folder here; one that reads like a path and is none is refused."""
    path = Path(name)
    looks_local = name.startswith((".", "/", "~")) or path.exists()
    if looks_local and not path.is_dir():
        raise DataError(f"the model folder {name} does not exist.", fix="Give a folder or a hub id such as org/model.")
    return looks_local


def check_model_folder(name: str) -> None:
    """Refuse a folder that cannot be a model with safetensors weights; a hub id passes.

    Raises:
        DataError: What is missing, or that the weights are pickled.
    """
    if not _is_local_folder(name):
        return
    path = Path(name)
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise DataError(f"the folder {name} holds no config.json, so it is not a model.")
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        raise DataError(
            f"the folder {name} holds pickled weights (.bin) and no safetensors; pickles can run code and are refused.",
            fix="Convert it once with a tool that you trust, for example save_pretrained of a recent transformers.",
        )


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _hub_help(name: str) -> str:
    if Path(name).exists():
        return "Check the folder's files."
    return "If the hub is out of reach or the model is gated, download it elsewhere and give the folder's path."


def local_digest(name: str | None) -> str:
    """Content hash of a local model folder or record file; empty for a hub id, which its revision names."""
    if name is None or not Path(name).exists():
        return ""
    path, digest = Path(name), hashlib.sha256()
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
