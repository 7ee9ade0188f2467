"""Presets of `expunge audit`: which audits run, with which settings.

With the target and the retain model, 'quick' takes minutes on a small model, 'standard' most of an hour, and 'full'
runs every audit with its default settings on all rows. `expunge audit --plan` estimates the time.
"""

from __future__ import annotations

from typing import Any, Literal

Preset = Literal["quick", "standard", "full"]

PRESETS: dict[Preset, list[dict[str, Any]]] = {
    "quick": [
        {
            "name": "leaks",
            "limit": 40,
            "max_new_tokens": 48,
            "views": ["paraphrase", "cloze", "multiple_choice", "prefix"],
        },
        {
            "name": "prompts",
            "limit": 40,
            "max_new_tokens": 48,
            "views": ["affirmative", "completion", "short", "translation"],
        },
        {"name": "quantize", "precisions": ["int4"], "limit": 100},
        {"name": "sampling", "samples": 16, "limit": 40},
        {"name": "contrast", "limit": 40},
        {"name": "depth", "limit": 20},
        {"name": "probe", "limit": 60, "wrong_answers": 2},
        {"name": "perturb", "sigmas": [0.1], "sparsities": [], "alphas": [], "limit": 40},
        {"name": "relearn", "tiers": ["all"], "lora_lr": [], "full_lr": [5e-5], "steps": [4, 16], "limit": 200},
    ],
    "standard": [
        {"name": "leaks", "limit": 100, "max_new_tokens": 64},
        {"name": "prompts", "limit": 100, "max_new_tokens": 64},
        {"name": "quantize", "limit": 200},
        {"name": "sampling", "samples": 32, "limit": 100},
        {"name": "contrast", "limit": 100},
        {"name": "depth", "limit": 100},
        {"name": "probe", "limit": 200, "wrong_answers": 3},
        {"name": "perturb", "sigmas": [0.05, 0.2], "sparsities": [0.3], "alphas": [0.5], "limit": 60},
        {"name": "directions", "limit": 60, "controls": 5},
        {"name": "soft_prompt", "limit": 60, "steps": 100, "batch_size": 4, "random_strings": False},
        {
            "name": "relearn",
            "tiers": ["retain", 4, "all", "shuffled"],
            "lora_lr": [3e-4],
            "full_lr": [5e-5],
            "steps": [4, 16],
            "limit": 200,
        },
    ],
    "full": [
        {"name": "leaks"},
        {"name": "prompts"},
        {"name": "quantize"},
        {"name": "sampling"},
        {"name": "contrast", "gammas": [1.5, 2, 3]},
        {"name": "depth"},
        {"name": "probe"},
        {"name": "perturb"},
        {"name": "directions"},
        {"name": "soft_prompt"},
        {"name": "relearn"},
        {"name": "lira"},
    ],
}
