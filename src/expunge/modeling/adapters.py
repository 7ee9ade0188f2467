"""LoRA through peft: the base model stays frozen and, with the adapter off, is the reference."""

from __future__ import annotations

from typing import Any

from expunge.config.recipe import Lora
from expunge.errors import IncompatibleError


def add_lora(model: Any, config: Lora, seed: int) -> Any:
    """Wrap a model with a fresh adapter; its first forward pass equals the model's own.

    Raises:
        IncompatibleError: A target module name matches nothing.
    """
    import peft
    import torch

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted = peft.get_peft_model(model, settings)
        except ValueError as error:
            linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
            raise IncompatibleError(
                f"model.lora.targets {config.targets} match no module of this model.",
                allowed=f"Its linear modules are {', '.join(linear)}.",
            ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted
