"""Small random models of the causal language model classes of transformers."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB = 120
WINDOW = 8
"""Of sliding windows and attention chunks: shorter than most test rows."""
FIRST_TOKEN = 10
"""Lower ids may be special tokens."""
NAMES: dict[str, str] = dict(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()))
"""Model type -> class."""
NOT_BUILT = {
    "dots3_note": "its config has settings per layer for its full depth; its text model is dots3_note_text",
    "gemma3n": "its vision encoder needs the package timm; its text model is gemma3n_text",
    "gemma4_assistant": "drafts tokens for another model, whose keys and values it reads",
    "gemma4_unified_assistant": "drafts tokens for another model, whose keys and values it reads",
    "musicgen": "its config is that of the full model, not of the decoder that the class builds",
    "musicgen_melody": "its config is that of the full model, not of the decoder that the class builds",
}
"""Model type -> why no small model can be built."""

_SIZES: list[tuple[str, int]] = [
    (r"vocab_size|vocab_size_per_layer_input|n_vocab|decoder_vocab_size|unpadded_vocab_size", VOCAB),
    (
        r"hidden_size|hidden_size_global|d_model|n_embd|dim|embedding_dim|emb_dim|embedding_size|lru_width|word_embed_proj_dim",
        32,
    ),
    (r"attention_hidden_size|mamba_d_ssm|input_embedding_size|output_embedding_size|backbone_hidden_size", 32),
    (r"(\w*_)?intermediate_size(_mlp)?|(\w*_)?ffn_dim|(\w*_)?ffn_hidden_size|d_ff|n_inner|dff|dim_ff|d_inner", 48),
    (r"feed_forward_size|block_ff_dim|prompt_mid_dim", 48),
    (r"num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers|num_blocks|num_layers_per_stack", 4),
    (r"num_attention_heads|n_heads?|num_heads|(num_)?(en|de)coder_attention_heads|attention_heads", 4),
    (r"swa_num_attention_heads|linear_num_heads|linear_num_value_heads|index_n_heads|hc_count", 4),
    (r"num_key_value_heads|swa_num_key_value_heads|linear_num_key_heads|num_kv_heads", 2),
    (r"head_dim|(swa|linear|global|index|attention|linear_key|linear_value|mamba|v)_head_dim|kv_channels|dim_head", 8),
    (r"qk_rope_head_dim|qk_nope_head_dim|d_head|d_rel|attention_head_size", 8),
    (r"(q|kv|o)_lora_rank|gated_norm_rank|laurel_rank|hidden_size_per_layer_input|adapter_rank|hc_lowrank", 8),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length|max_\w+_positions", 256),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts", 4),
    (r"num_experts_per_tok|num_experts_per_token|moe_k|moe_topk", 2),
    (r"(\w*_)?sliding_window|sliding_window_size|attention_window_size|attention_chunk_size|local_attention", WINDOW),
    (r"window_size|keep_window_size", WINDOW),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"(mamba_)?d_state|state_size|mamba_d_state|ssm_state_size", 8),
    (r"mamba_dt_rank|time_step_rank", 4),
    (r"(mamba_)?chunk_size", 16),
    # Longer than all test rows: with fewer keys, ties between them are broken by rounding, also in transformers.
    (r"index_topk|indexer_budget", 64),
    (r"rotary_dim", 4),
]
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_FLOATS = {
    "initializer_range": 0.2,
    "final_logit_softcapping": 3.0,
    "logits_soft_cap": 3.0,
    "output_logit_soft_cap": 3.0,
    "logits_scaling": 4.0,
    "logit_scale": 0.25,
    "lm_head_multiplier": 0.25,
    "query_pre_attn_scalar": 8,
}
"""Set, so that a model that is run without them has other logits."""
_LINEAR, _FULL = "linear_attention", "full_attention"
_HYBRID: dict[str, Any] = {"layer_types": [_LINEAR, _FULL] * 2}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
_MLA: dict[str, Any] = {"num_key_value_heads": 4}
_BERT_LIKE = [
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
]
_EXTRA: dict[str, dict[str, Any]] = {
    **{name: {"is_decoder": True} for name in _BERT_LIKE},
    **{name: _MLA for name in ("axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa")},
    **{name: _MLA for name in ("minicpm3", "youtu", "longcat_flash")},
    **{name: _HYBRID | _MLA for name in ("bailing_hybrid", "kimi_linear")},
    **{name: _HYBRID for name in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "minimax")},
    "bamba": {"attn_layer_indices": [1, 3], **_MAMBA},
    "granitemoehybrid": {**_HYBRID, **_MAMBA},
    "falcon_h1": {**_MAMBA, "mamba_n_heads": 4},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "zamba": {"layers_block_type": [_LINEAR, "hybrid"] * 2, "attention_head_dim": 16, "attention_hidden_size": 64},
    "zamba2": {"layers_block_type": [_LINEAR, "hybrid"] * 2},
    "lfm2": {"layer_types": ["conv", _FULL] * 2},
    "lfm2_moe": {"layer_types": ["conv", _FULL] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "nemotron": {"num_key_value_heads": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": None},
    "dots3_note_text": {**_MLA, "layer_types": ["indexed_attention"] * 4},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
}


def config_of(name: str) -> Any:
    """Return the config of a small model."""
    return _config(CONFIG_MAPPING[name], name)


def _config(kind: Any, name: str) -> Any:
    extra = _EXTRA.get(name, {})
    specs = getattr(kind, "sub_configs_defaults", {})
    settings: dict[str, Any] = {}
    for field, value in _defaults(kind).items():
        if field in extra:
            continue
        if field in kind.sub_configs or field in specs:
            spec = specs.get(field)
            child = CONFIG_MAPPING[spec.model_type] if spec is not None else kind.sub_configs[field]
            settings[field] = _config(child, getattr(child, "model_type", "") or f"{name}.{field}")
        elif field in _TOKENS:
            settings[field] = _TOKENS[field]
        elif re.search("drop(out|_rate|_path)?|pdrop", field) and isinstance(value, float):
            settings[field] = 0.0
        elif field in _FLOATS:
            settings[field] = _FLOATS[field]
        elif value is None or (isinstance(value, int) and not isinstance(value, bool)):
            sizes = [size for pattern, size in _SIZES if re.fullmatch(pattern, field)]
            if sizes and (value is not None or field in {"sliding_window"}):
                settings[field] = sizes[0]
    return kind(**settings, **extra)


def _defaults(kind: Any) -> dict[str, Any]:
    return {name: field.default for name, field in kind.__dataclass_fields__.items() if field.init}


def build(name: str) -> Any:
    """Build a small model whose predictions are far from uniform, in float32 and evaluation mode."""
    config = config_of(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        except ValueError:
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if name == "gemma3n_text":
        # A zero embedding of padding, which checkpoints do not have, gives NaN gradients in norms without an epsilon.
        with torch.no_grad():
            model.get_input_embeddings().weight[0] = 0.1
    return model.eval()
