"""Writes docs/hardware.md from what `expunge plan` says of large models on named machines.

python tools/docs/make_hardware.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import transformers

from expunge.config.load import load_recipe
from expunge.planning.gpus import Gpu, gpus
from expunge.planning.memory import RUNTIME_BYTES, format_bytes
from expunge.planning.planner import Planner, on_card
from expunge.planning.throughput import step_seconds

PAGE = Path(__file__).parents[2] / "docs" / "hardware.md"
INTRO = """# Hardware

Written by `python tools/docs/make_hardware.py` from what `expunge plan` derives; nothing on this page was measured on a
GPU. `expunge plan RECIPE [KEY.PATH=VALUE]...` prints the same for any recipe: memory part by part, seconds per step,
and which setting to change where a card is too small. A training fits where it takes at most 95 % of the data sheet's
memory; seconds are at 40 % of the card's dense bfloat16 peak.

With FSDP a model is in shards from the moment it is opened. The main process reads it into its main memory and sends
it block by block, measuring and saving gather it the same way, and no card ever holds more than its share, embeddings
and output layer, and two layers. The main process needs main memory for one whole copy (70B: 280 GB in float32), and
for the state of the optimiser besides (twice that with Adam) when a training state is saved. A forward pass keeps
half-precision copies of float32 weights for the backward pass, unless gradients are checkpointed. What a method
prepares before it trains (AltPO's answers, Who's Harry Potter's labels) and task vectors still take a whole model per
card. Bitsandbytes' optimisers do not know of shards; torchao's (`adamw_torch_8bit`) do.
"""
LAUNCH = "accelerate launch --num_processes {processes} --use_fsdp --fsdp_version 2 -m expunge run"
MILD = ["train.device_batch_size=1", "model.gradient_checkpointing=true"]
WHOLE = ["train.device_batch_size=32", "model.gradient_checkpointing=true"]
EIGHT = "train.optimizer=adamw_bnb_8bit"
Setting = tuple[str, list[str], int]
"""What it is called, the overrides, the number of GPUs."""
LORA = "model.lora={rank: 8}"
SEVEN: list[Setting] = [
    ("full, as the recipe is", [], 1),
    ("full, 8-bit optimiser, nothing accumulated", [*WHOLE, EIGHT], 1),
    ("LoRA", [LORA], 1),
]
SEVEN_SHARED: list[Setting] = [
    ("full, sharded", [], 4),
    ("full, sharded, a row at a time", MILD, 4),
    ("LoRA, sharded", [LORA], 4),
]
SEVENTY: list[Setting] = [
    ("full, sharded, a row at a time", MILD, 16),
    # Bitsandbytes' optimisers cannot work on shards.
    ("full, 8-bit optimiser", [*MILD, "train.optimizer=adamw_torch_8bit"], 16),
    ("LoRA, sharded, a row at a time", [*MILD, LORA], 16),
]


def page() -> str:
    """The whole page."""
    seventy = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        seventy.save_pretrained(folder)
        large = section("70B on two machines with eight GPUs each", SEVENTY, ["H100-80", "H200-141"], folder)
    return "\n".join(
        [
            INTRO,
            *section("7B on one card", SEVEN, ["A100-80", "H100-80"]),
            *section("7B on four GPUs", SEVEN_SHARED, ["A100-40", "A100-80", "H100-80"]),
            *large,
        ]
    )


def section(title: str, settings: list[Setting], cards: list[str], model: str = "") -> list[str]:
    """SimNPO on TOFU under some settings on some cards."""
    named = {gpu.name: gpu for gpu in gpus()}
    planner = Planner(load_recipe("tofu-forget05-simnpo", [f"model.name={model}"] if model else []))
    rows = [
        "| training | each card, in training | with its widest moment | card | fits | seconds per step |",
        "|---|---|---|---|---|---|",
    ]
    for words, overrides, count in settings:
        rows += [_row(planner, words, overrides, count, named[card]) for card in cards]
    lines = [f"- {words}: `{_command(overrides, count)}`" for words, overrides, count in settings]
    return [f"## {title}", "", *rows, "", *lines, ""]


def _row(planner: Planner, words: str, overrides: list[str], count: int, gpu: Gpu) -> str:
    case = planner.case("train", overrides, count)
    memory = case.memory
    widest = max(memory.moments, key=lambda moment: memory.moments[moment])
    fits = on_card(memory) <= gpu.usable_bytes
    seconds = step_seconds(gpu, case.shape, case.flops, micro_batches=case.work.accumulation, half=True, num_gpus=count)
    shown = f"{seconds:.2g}" if fits else "-"
    size = format_bytes(on_card(memory))
    training = format_bytes(max(memory.moments[moment] for moment in ("forward", "backward")) - RUNTIME_BYTES)
    return f"| {words} | {training} | {size} ({widest}) | {gpu.name} | {'yes' if fits else 'no'} | {shown} |"


def _command(overrides: list[str], count: int) -> str:
    machines = "--num_machines 2 --machine_rank RANK --main_process_ip ADDRESS " if count > 8 else ""
    start = "expunge run" if count == 1 else LAUNCH.format(processes=f"{count} {machines}".strip())
    return " ".join([start, "RECIPE", *(f"'{each}'" if " " in each else each for each in overrides)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
