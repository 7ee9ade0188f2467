"""Small models of several classes with random weights, whose generation is compared with the forward pass."""

import torch
import transformers

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {"mamba_n_heads": 6, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
MODELS = {
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 6, "head_dim": 8, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 24, "context_length": 128},
    "bamba": {"attn_layer_indices": [1], **MAMBA},
    "falcon_h1": {"mamba_d_ssm": 24, **MAMBA, "mamba_n_heads": 3},
    "bloom": {"n_layer": 2, "n_head": 4},
    "minimax": {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["linear_attention", "full_attention"],
        "block_size": 8,
        "head_dim": 6,
    },
    "llama": {},
    "mistral": {"sliding_window": 8},
}
ENDS = list(range(2, 60, 5))


def build(kind: str) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **MODELS[kind]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.data.normal_(std=0.3)
    return model
