"""Load tokenizers and models, build small ones from scratch, and check model folders."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from expunge.config.recipe import Model, Scratch
from expunge.console import note
from expunge.data.templates import Encoded
from expunge.distributed import full_tensor
from expunge.errors import DataError, IncompatibleError, NotHereError, UserError, one_line
from expunge.modeling.adapter_loading import AdapterUse, load_adapter
from expunge.modeling.forward import output_path, text_config
from expunge.modeling.gguf import as_folder
from expunge.modeling.model_files import CONFIG_ERRORS, check_config
from expunge.modeling.saved_adapters import find_adapter
from expunge.modeling.types import CausalLM, ModuleLike, Tokenizer, TrainedModel, Vocabulary

T = TypeVar("T")

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Chat template of tokenizers trained here: the question-answer prompt that is common for base models."""

_CONTEXT = ("max_position_embeddings", "max_seq_len", "context_length", "model_max_length", "max_target_positions")
"""Settings of transformers that state the longest sequence."""


def device_of(config: Model) -> torch.device:
    """Return the device that `model.device` selects.

    Raises:
        UserError: It is 'cuda', but there is no CUDA device.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is 'cuda', but there is no CUDA device here.", fix="Set model.device=auto.")
    return torch.device(config.device)


def frozen_device(config: Model) -> torch.device | None:
    """Return the device that `model.frozen_device` selects for the frozen reference; None: that of the model.

    Raises:
        NotHereError: There is no such device here.
    """
    name = config.frozen_device
    if name is None:
        return None
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in devices:
        raise NotHereError(
            f"model.frozen_device is '{name}', but there is no such device here.",
            allowed=f"Allowed: {', '.join(devices)}.",
        )
    return torch.device(name)


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Tokenizer:
    """Load a tokenizer from a folder, the hub or a GGUF file; for an adapter without one, that of its base model.

    Raises:
        DataError: It does not exist or cannot be read.
    """
    name = as_folder(name)
    _is_local_folder(name)
    adapter = find_adapter(name, revision)
    if adapter is not None and not adapter.has_file("tokenizer_config.json"):
        name, revision = adapter.base, adapter.base_revision
    try:
        tokenizer: Tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raises plain exceptions, and the hub client those of several packages.
        raise DataError(f"the tokenizer of {name} cannot be loaded: {one_line(error)}", fix=_hub_help(name)) from error
    return tokenizer


def load_model(
    name: str,
    *,
    config: Model,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    adapter: AdapterUse = "unmerged",
) -> TrainedModel:
    """Load a causal language model from a folder or the hub, with safetensors weights, or from a GGUF file.

    Args:
        name: Folder or hub id of a model, or of an adapter, which is loaded with its base model; or a GGUF file.
        config: The recipe's model section, for the attention implementation and trust_remote_code.
        revision: Revision on the hub.
        dtype: Precision of the weights.
        device: Device of the weights; None for the CPU.
        adapter: How an adapter is put on its base model; has no effect on other models.

    Raises:
        DataError: The weights are missing, truncated, incomplete or not safetensors.
        IncompatibleError: An adapter does not fit its base model or cannot be used in this way, or the model does not
            run on text alone, or is not causal.
    """
    name = as_folder(name)
    check_model_folder(name)
    saved = find_adapter(name, revision)
    if saved is None:
        return _load_weights(name, name, config, revision, dtype, device)
    label = f"{saved.base} (base of the adapter {name})"
    return load_adapter(_load_weights(saved.base, label, config, saved.base_revision, dtype, device), saved, adapter)


def _load_weights(
    name: str, label: str, config: Model, revision: str | None, dtype: torch.dtype, device: torch.device | None
) -> CausalLM:
    """Load the weights of a full model; `label` names it in messages."""
    check_model_folder(name)
    device = device or torch.device("cpu")
    local = Path(name).is_dir()
    if local:
        check_config(Path(name))
    quantized = bool(_quantization(name, revision))
    model: CausalLM
    load = functools.partial(
        transformers.AutoModelForCausalLM.from_pretrained,
        # An absolute path, because adapters that are trained on the model record it.
        str(Path(name).resolve()) if local else name,
        revision=revision,
        dtype=dtype,
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
        output_loading_info=True,
        # Other shapes are reported below, with their names.
        ignore_mismatched_sizes=True,
        # transformers would load an adapter in the same folder too; this makes it search elsewhere.
        adapter_kwargs={"subfolder": "no-adapter"} if local else None,
        # Quantised weights cannot be moved once they are loaded.
        device_map={"": device} if quantized else None,
    )
    try:
        model, info = _with_attention(load, config.attention)
    except SafetensorError as error:
        raise DataError(
            f"the weights of {label} are damaged or not safetensors ({error}).",
            fix="Copy or download the folder again; pickled checkpoints are never opened.",
        ) from error
    except (*CONFIG_ERRORS, RuntimeError) as error:
        fix = "Install what the message names, or give an unquantised copy." if quantized else _hub_help(name)
        raise DataError(f"the model {label} cannot be loaded: {one_line(error)}", fix=fix) from error
    for tensor, saved_shape, shape in sorted(info["mismatched_keys"]):
        raise DataError(
            f"the weights of {label} do not fit its config.json: {tensor} has the shape {tuple(saved_shape)}, "
            f"not {tuple(shape)}.",
            fix="The folder mixes files of two models; copy or download it again.",
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise DataError(
            f"the weights of {label} are incomplete: {len(missing)} tensors are missing, such as {missing[0]}.",
            fix="Copy or download the folder again, or check that its config.json belongs to these weights.",
        )
    _refuse_invalid_weights(model, label)
    model = model if quantized else model.to(device)
    output_path(model)
    return model


def _refuse_invalid_weights(model: CausalLM, label: str) -> None:
    """Raise if a weight is NaN or infinite: every value that such a model gives would be meaningless."""
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.numel() or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            continue
        # The extremes of a tensor with NaN are NaN, and finding them needs no memory.
        low, high = weight.detach().aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise DataError(
                f"the weights of {label} are damaged: {name} contains values that are NaN or infinite.",
                fix="Copy or download the folder again, or use an earlier checkpoint of the training that diverged.",
            )


def _with_attention(load: Callable[..., T], attention: str) -> T:
    """Load a model with an attention implementation, or with 'eager' if its architecture has no 'sdpa'."""
    try:
        return load(attn_implementation=attention)
    except ValueError as error:
        if attention != "sdpa" or "scaled_dot_product_attention" not in str(error):
            raise
        _note_eager(str(error).split()[0])
        return load(attn_implementation="eager")


@functools.cache
def _note_eager(name: str) -> None:
    note(
        f"{name} does not support model.attention=sdpa; its attention is eager, which is slower and takes more memory."
    )


def _quantization(name: str, revision: str | None) -> Any:
    """Return the settings of quantised weights; None if the weights are not quantised or there is no config."""
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision)
    except (OSError, ValueError):
        # Loading the model reports it.
        return None
    return config.get("quantization_config")


def refuse_quantized(name: str, config: Any) -> None:
    """Raise if the weights of a model that is trained or edited are quantised.

    Args:
        name: Folder or hub id, for the message.
        config: Its transformers config.

    Raises:
        IncompatibleError: They are quantised.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method", "") if isinstance(settings, Mapping) else settings.quant_method.value
    raise IncompatibleError(
        f"the weights of {name} are quantised ({method}) and can only be measured, by expunge "
        "evaluate and expunge audit; they cannot be trained, edited or merged with an adapter.",
        fix="Give the model that they were quantised from, or load it with transformers, call its dequantize(), and "
        "save it.",
    )


def build_scratch(scratch: Scratch, tokenizer: Vocabulary, seed: int, attention: str = "sdpa") -> CausalLM:
    """Build a Llama with random weights; equal seeds give equal weights."""
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
        model: CausalLM = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer on texts, with separate padding, beginning and end tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    trained: Tokenizer = tokenizer
    return trained


def pad_id_of(tokenizer: Tokenizer) -> int:
    """Return the id to write into padding; it affects no result, since masks are built from row lengths."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert pad_id is not None, "`Template` accepts only tokenizers with an end-of-sequence token"
    return int(pad_id)


def context_length(model_config: Any) -> int:
    """Return the longest sequence that a model has positions for."""
    config = text_config(model_config)
    lengths = [int(getattr(config, name, None) or 0) for name in _CONTEXT]
    return min((length for length in lengths if length > 0), default=1 << 20)


def check_tokenizer(model: CausalLM, tokenizer: Tokenizer, name: str) -> None:
    """Raise if a tokenizer has ids beyond the model's embeddings.

    Raises:
        IncompatibleError: The tokenizer has more tokens than the model has embeddings.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise IncompatibleError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, but the model has only {rows} embeddings.",
            fix="Use the tokenizer that the model was trained with.",
        )


def check_row_lengths(model: CausalLM, sets: Mapping[str, Sequence[Encoded]]) -> None:
    """Raise if a row is longer than the model's context, whose later positions were never trained.

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


def model_hash(model: ModuleLike) -> str:
    """Return a hash of the weights, 16 hexadecimal digits; with a sharded model, every process has to call this."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(full_tensor(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _is_local_folder(name: str) -> bool:
    """Return whether a name is a local folder rather than a hub id.

    Raises:
        DataError: The name looks like a path, but is not a folder.
    """
    path = Path(name)
    looks_local = name.startswith((".", "/", "~")) or path.exists()
    if looks_local and not path.is_dir():
        raise DataError(f"the model folder {name} does not exist.", fix="Give a folder or a hub id such as org/model.")
    for file in path.iterdir() if looks_local else ():
        if file.suffix in {".safetensors", ".json", ".jinja", ".model"} and not file.is_file():
            raise DataError(
                f"{file} is a folder, a pipe or a broken link, not a file.", fix="Copy or download the folder again."
            )
    return looks_local


def check_model_folder(name: str) -> None:
    """Raise if a local folder, or a GGUF file, is not a model with safetensors weights; hub ids are not checked.

    Raises:
        DataError: The folder does not exist, has no config.json, or has only pickled weights.
    """
    name = as_folder(name)
    if not _is_local_folder(name):
        return
    find_adapter(name)
    path = Path(name)
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise DataError(
            f"the folder {name} has no config.json, so it is not a model.",
            fix="Give a folder that save_pretrained wrote, or a hub id such as org/model.",
        )
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        raise DataError(
            f"the folder {name} has pickled weights (.bin) and no safetensors; pickles can run code and are refused.",
            fix="Convert it once with a tool that you trust, for example save_pretrained of a recent transformers.",
        )


def _hub_help(name: str) -> str:
    if Path(name).exists():
        return "Check the folder's files."
    return "If the hub is not reachable or the model is gated, download it elsewhere and give the path of its folder."


def local_digest(name: str | None) -> str:
    """Return a content hash of a local model folder or file, or an empty string for a hub id or None.

    The hash of an adapter includes that of its base model, if that is local too.
    """
    if name is None or not Path(name).exists():
        return ""
    path, digest = Path(name), hashlib.sha256()
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    adapter = find_adapter(name) if path.is_dir() else None
    if adapter is not None and Path(adapter.base).is_dir() and not path.samefile(adapter.base):
        digest.update(local_digest(adapter.base).encode())
    return digest.hexdigest()[:16]
