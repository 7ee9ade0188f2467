"""Writes docs/performance.md and its plot from the records in results/performance/.

python tools/docs/make_performance.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS.parent / "results" / "performance"
INTRO = """# Performance

Every number on this page is read from a record that a program in `perf/` wrote (`python -m perf.training`,
`.evaluation`, `.memory`, `.plan`, `.row_store`); `python tools/docs/make_performance.py` writes the page anew.

"The plain way" is what published code does, written in `perf/plain.py`: batches in random order padded to
their longest row, forget and retain forwarded separately, labels passed so that the model computes its own loss, full
logits for prompt and answer, the frozen reference in memory and forwarded at every step, RMU forwarded through all
layers three times, AdamW as it comes. A test holds it to equal losses and gradients on equal rows.

What ours does instead, with equal results to rounding:

- Rows are packed: several stand one after the other in a longer one without padding, each seeing itself only. Which
  rows share a batch stays random. Models that cannot take packed rows are found by trying, and padded.
- Forget and retain rows go through the model together.
- The vocabulary is projected at answer positions only, in chunks.
- A reference is a number per row where that suffices (NPO, DPO). Where predictions are compared (KL, UNDIAL), the start
  model's hidden states at answer tokens are computed once, for the rows that the training comes to, and read from a
  file; a frozen copy is kept only for losses that look at prompts or padding.
- RMU's pass stops at the steered layer, and gradients exist for the trained matrices only. The reference's pass begins
  at the first trained matrix, since everything before it is the same; where only answers are steered and held, the
  steered layer's MLP runs at answer tokens only.
- Divergences are computed a few rows at a time; what stays until the backward pass is one gradient per logit.
- AdamW runs in one fused kernel, and its moments are made before the first step, not amid what that step frees.
"""


def training(record: dict[str, Any]) -> list[str]:
    """Table of seconds and memory per method."""
    machine, shape = record["machine"], record["shape"]
    several = [item["method"] for item in record["methods"] if item.get("memory_runs") == 3]
    lines = [
        "## Training",
        "",
        f"A Llama of {shape['num_layers']} layers, width {shape['hidden_size']}, vocabulary {shape['vocab_size']} with "
        f"random weights, TOFU forget10 and retain90, {record['batch_size']} rows of each set per step, float32, on "
        f"{machine['processor']} with {machine['threads']} threads, torch {machine['torch']}. Steps of both ways were "
        f"taken by turns in one process: medians of {record['pairs']} pairs. `with prep.` spreads what is prepared "
        "once over the steps of ten passes. Memory is the peak resident size above imports in five steps, in a process "
        f"of its own; of {', '.join(several)} the median of three.",
        "",
        "| method | plain s | ours s | ratio | with prep. | goal | tokens/s | plain | padding | plain | peak MiB "
        "| plain | ratio | goal |",
        "|" + "---|" * 14,
    ]
    for item in record["methods"]:
        ours, plain = item["ours_bytes"], item["plain_bytes"]
        memory = [f"{ours / 2**20:.0f}", f"{plain / 2**20:.0f}", f"{ours / plain:.2f}"] if ours and plain else [""] * 3
        cells = [
            item["method"],
            f"{item['plain_seconds']:.2f}",
            f"{item['ours_seconds']:.2f}",
            f"{item['ratio']:.2f}x",
            f"{item['ratio_with_preparation']:.2f}x",
            f"{item['goal']['ratio']}x",
            f"{item['tokens_per_second']:.0f}",
            f"{item['plain_tokens_per_second']:.0f}",
            f"{item['padding']:.1%}",
            f"{item['plain_padding']:.1%}",
            *memory,
            f"{item['goal']['memory']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def against_trl(record: dict[str, Any]) -> list[str]:
    """Table of DPO beside trl's trainer."""
    machine, names = record["machine"], {"ours": "ours", "trl": "trl", "trl-precomputed": "trl, precomputed"}
    lines = [
        "## DPO against trl's DPOTrainer",
        "",
        f"The same model and the forget and refusal rows above, {record['batch_size']} pairs per step and no retain "
        f"rows, which trl's trainer has no place for; float32, {machine['threads']} threads, trl {record['trl']}, loss "
        f"-log sigmoid with beta {record['settings']['beta']}. A test holds both to equal losses and gradients. Each "
        "trains in a process of its own and takes a step when its turn comes: medians of "
        f"{record['pairs']} rounds. `trl` runs its frozen reference at every step, as it comes; `trl, precomputed` has "
        "precompute_ref_log_probs on. Both train without trl's default bfloat16 and gradient checkpointing, as ours "
        "does. On a GPU trl projects answer positions only; here, on a CPU, it projects every position, and it "
        "computes entropy and accuracy with each loss. Preparation is everything up to the first gradient, once; "
        f"`with prep.` spreads it over {record['steps']} steps. Ratios are to ours.",
        "",
        "| | s per step | ratio | ratio of processor s | preparation s | ratio with prep. | tokens/s | padding "
        "| peak MiB | ours / its |",
        "|" + "---|" * 10,
    ]
    for side in record["sides"]:
        cells = [
            names[side["name"]],
            f"{side['seconds']:.2f}",
            f"{side['ratio']:.2f}x",
            f"{side['cpu_ratio']:.2f}x",
            f"{side['preparation_seconds']:.1f}",
            f"{side['ratio_with_preparation']:.2f}x",
            f"{side['tokens_per_second']:.0f}",
            f"{side['padding']:.1%}",
            f"{side['peak_bytes'] / 2**20:.0f}",
            f"{side['memory_ratio']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def evaluation(record: dict[str, Any]) -> list[str]:
    """Table of a full TOFU evaluation."""
    machine, rows = record["machine"], record["rows"]
    lines = [
        "## Evaluation",
        "",
        f"Every row of TOFU's sets ({', '.join(f'{name} {count}' for name, count in rows.items())}; the holdout people "
        f"are our own) with a model that has learnt them, {record['model']}, in float32 on {machine['processor']} with "
        f"{machine['threads']} threads. The plain way takes one forward pass per text and metric, prompts repeated for "
        "each answer, in file order; ours scores each text once, answers to one question in one row that branches "
        "where they part, and lets the model write only what scoring has not settled. `first` is what TOFU's paper "
        "measures, `all` adds memorisation, membership and paraphrased questions, `gradients` gradient norms. Medians "
        f"of {len(record['suites'][0]['ours']['seconds'])} pairs; all numbers agree, and every generated answer.",
        "",
        "| suite | plain s | ours s | ratio | of CPU time | goal | plain tokens | ours | plain MiB | ours | ratio "
        "| goal | largest difference |",
        "|" + "---|" * 13,
    ]
    for item in record["suites"]:
        plain, ours = item["plain"], item["ours"]
        seconds = [statistics.median(side["seconds"]) for side in (plain, ours)]
        sizes = [f"{side['peak_bytes'] / 2**20:.0f}" if side["peak_bytes"] else "" for side in (plain, ours)]
        cells = [
            item["name"],
            *(f"{value:.1f}" for value in seconds),
            f"{item['ratio']:.2f}x",
            f"{item['cpu_ratio']:.2f}x",
            f"{item['goal_ratio']:g}x",
            *(f"{side['tokens']:,}" for side in (plain, ours)),
            *sizes,
            f"{item['memory_ratio']:.2f}" if item["memory_ratio"] else "",
            f"{item['goal_memory']:g}" if item["goal_memory"] else "",
            f"{item['largest_difference']:.0e}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def plan(record: dict[str, Any]) -> list[str]:
    """Table of predicted and measured memory."""
    lines = [
        "## Memory that `expunge plan` predicts",
        "",
        "Predicted and measured peaks above imports and rows of a training on a CPU, with glibc told to give freed "
        "blocks back (`MALLOC_MMAP_THRESHOLD_=131072`); left to itself it keeps more, which no plan can foresee.",
        "",
        "| case | parameters | predicted MiB | measured MiB | ratio |",
        "|---|---|---|---|---|",
    ]
    for item in record["cases"]:
        predicted, measured = (item[name] / 2**20 for name in ("predicted_bytes", "measured_bytes"))
        lines.append(
            f"| {item['case']} | {item['num_parameters'] / 1e6:.1f} M | {predicted:.0f} | {measured:.0f} | "
            f"{item['ratio']:.3f} |"
        )
    return [*lines, ""]


def row_store(record: dict[str, Any]) -> list[str]:
    """Table of RMU's later passes."""
    lines = [
        "## RMU's later passes",
        "",
        "Hidden states below the lowest trained layer, and the start model's at the steered layer, are kept from a "
        "row's first visit and read at later ones (`method.store_gib`). Seconds per step without over seconds with it, "
        f"steps by turns, passes of {record['steps_per_pass']} steps; first passes are noise around 1.",
        "",
        "| method | rows that come again | first pass | later passes | MiB kept |",
        "|---|---|---|---|---|",
    ]
    for item in record["methods"]:
        lines.append(
            f"| {item['method']} | {item['again']} | {item['first_ratio']:.2f}x | {item['later_ratio']:.2f}x | "
            f"{item['kept_bytes'] / 2**20:.0f} |"
        )
    return [*lines, ""]


def memory(record: dict[str, Any]) -> list[str]:
    """Slopes per setting, and the plot."""
    base = ", ".join(f"{name} {value}" for name, value in record["base"].items())
    lines = [
        "## Growth of memory",
        "",
        f"Peak memory of {record['method']} above imports, one setting doubled at a time (otherwise {base}). The slope "
        "is that of log memory over log setting: 1 grows in proportion.",
        "",
        "| setting | values | ours MiB | plain MiB | slope | plain |",
        "|---|---|---|---|---|---|",
    ]
    for axis in record["axes"]:
        sizes = [" ".join(f"{size / 2**20:.0f}" for size in axis[f"{side}_bytes"]) for side in ("ours", "plain")]
        values = " ".join(map(str, axis["values"]))
        lines.append(
            f"| {axis['axis']} | {values} | {sizes[0]} | {sizes[1]} | {axis['ours_slope']:.2f} | "
            f"{axis['plain_slope']:.2f} |"
        )
    return [*lines, "", "![Peak memory over each setting](performance-memory.svg)", ""]


def plot(record: dict[str, Any], place: Path) -> None:
    """Memory over each setting, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "expunge"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(record["axes"]), figsize=(3 * len(record["axes"]), 3), squeeze=False)
    for panel, axis in zip(panels[0], record["axes"], strict=True):
        for side, marker in (("plain", "s"), ("ours", "o")):
            panel.loglog(axis["values"], [size / 2**20 for size in axis[f"{side}_bytes"]], marker=marker, label=side)
        panel.set_xticks(axis["values"], [str(value) for value in axis["values"]])
        panel.minorticks_off()
        panel.set_xlabel(axis["axis"])
    panels[0][0].set_ylabel("peak MiB")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(place, metadata={"Date": None})


SECTIONS = {
    "training": training,
    "training-trl": against_trl,
    "row_store": row_store,
    "evaluation": evaluation,
    "memory": memory,
    "plan": plan,
}
"""Records and what is said of them, in the page's order."""


def page() -> str:
    """The whole page."""
    lines = [INTRO]
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            lines += section(json.loads(path.read_text()))
    return "\n".join(lines)


if __name__ == "__main__":
    (DOCS / "performance.md").write_text(page(), encoding="utf-8")
    if (RESULTS / "memory.json").is_file():
        plot(json.loads((RESULTS / "memory.json").read_text()), DOCS / "performance-memory.svg")
