"""Write docs/performance.md and its plot from the records in results/performance/.

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

All values on this page are read from records that the programs in `perf/` wrote (`python -m perf.training`,
`.evaluation`, `.memory`, `.plan`, `.row_store`, `.sampling`, `.view`); `python tools/docs/make_performance.py`
generates the page.

"Plain" is what published code does, in its simplest form (`perf/plain.py`): batches in random order, padded to their
longest row; separate forward passes for forget and retain rows; labels given to the model, which computes its own loss;
full logits for prompt and answer; a frozen reference in memory that is run at every step; three passes through all
layers for RMU; AdamW with its default settings. A test checks that its losses and gradients equal ours on equal rows.

Ours computes the same results, to rounding, with these differences:

- Rows are packed: several rows are concatenated without padding, and each attends to itself only. Which rows share a
  batch stays random. Whether a model supports packing is tested on the model; if not, rows are padded.
- Forget and retain rows share one forward pass.
- Logits are computed at answer positions only, in chunks.
- The reference is reduced to one number per row where that is enough (NPO, DPO). Where predictions are compared (KL,
  UNDIAL), the reference's hidden states at answer tokens are computed once, for the rows that the training uses, and
  read from a file. A frozen copy stays in memory only for losses at prompt or padding positions.
- RMU's forward pass stops at the steered layer, and only the trained matrices have gradients. The reference's pass
  starts at the first trained matrix, since everything before it is the same. If only answers are steered, the MLP of
  the steered layer runs at answer tokens only.
- Divergences are computed a few rows at a time; one gradient per logit is stored until the backward pass.
- AdamW runs in one fused kernel, and its moments are allocated before the first step.
"""


def training(record: dict[str, Any]) -> list[str]:
    """Return the table of seconds and memory per method."""
    machine, shape = record["machine"], record["shape"]
    medians = [item["method"] for item in record["methods"] if item.get("memory_runs") == 3]
    lines = [
        "## Training",
        "",
        f"A Llama of {shape['num_layers']} layers, width {shape['hidden_size']}, vocabulary {shape['vocab_size']} with "
        f"random weights, TOFU forget10 and retain90, {record['batch_size']} rows of each set per step, float32, on "
        f"{machine['cpu']} with {machine['threads']} threads, torch {machine['torch']}. Both trainings alternated step "
        f"by step in one process: medians of {record['pairs']} pairs. `with prep.` spreads the preparation over the "
        "steps of ten epochs. Memory is the peak resident size above imports in five steps, in a process of its own "
        f"(median of three for {', '.join(medians)}).",
        "",
        "| method | plain s | ours s | ratio | with prep. | tokens/s | plain | padding | plain | peak MiB | plain "
        "| ratio |",
        "|" + "---|" * 12,
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
            f"{item['tokens_per_second']:.0f}",
            f"{item['plain_tokens_per_second']:.0f}",
            f"{item['padding']:.1%}",
            f"{item['plain_padding']:.1%}",
            *memory,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def against_trl(record: dict[str, Any]) -> list[str]:
    """Return the table of DPO against trl's trainer."""
    machine, labels = record["machine"], {"ours": "ours", "trl": "trl", "trl-precomputed": "trl, precomputed"}
    lines = [
        "## DPO against trl's DPOTrainer",
        "",
        f"Same model, forget rows and refusals as above, {record['batch_size']} pairs per step, without retain rows, "
        f"which trl's trainer does not support; float32, {machine['threads']} threads, trl {record['trl']}, loss "
        f"-log sigmoid with beta {record['settings']['beta']}. A test checks that both have equal losses and "
        "gradients. Each training has a process of its own, and they alternate step by step: medians of "
        f"{record['pairs']} rounds. `trl` runs its frozen reference at every step, which is its default; `trl, "
        "precomputed` has precompute_ref_log_probs on. Both train without bfloat16 and gradient checkpointing, which "
        "are trl's defaults, as ours does. On a GPU trl computes logits at answer positions only; on a CPU, as here, "
        "at every position, and it computes entropy and accuracy with each loss. Preparation is everything up to the "
        f"first gradient, once per training; `with prep.` spreads it over {record['steps']} steps. Ratios are to ours.",
        "",
        "| | s per step | ratio | CPU time ratio | preparation s | ratio with prep. | tokens/s | padding "
        "| peak MiB | ours / trl |",
        "|" + "---|" * 10,
    ]
    for side in record["sides"]:
        cells = [
            labels[side["name"]],
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
    """Return the table of a full TOFU evaluation."""
    machine, rows = record["machine"], record["rows"]
    lines = [
        "## Evaluation",
        "",
        f"All rows of TOFU's sets ({', '.join(f'{name} {count}' for name, count in rows.items())}; the holdout rows "
        f"are about other fictitious people) with a model that was trained on them ({record['model']}), in float32 on "
        f"{machine['cpu']} with {machine['threads']} threads. The plain evaluation runs one forward pass per text and "
        "metric, with prompts repeated for each answer, in file order. Ours scores each text once, with the answers to "
        "a question in one row that branches where they differ, and generates only tokens that scoring has not "
        "determined. `first` has the metrics of TOFU's paper; `all` adds memorisation, membership and paraphrased "
        f"questions; `gradients` adds gradient norms. Medians of {len(record['suites'][0]['ours']['seconds'])} pairs; "
        "all metrics and all generated answers agree.",
        "",
        "| suite | plain s | ours s | ratio | CPU time ratio | plain tokens | ours | plain MiB | ours | ratio "
        "| largest difference |",
        "|" + "---|" * 11,
    ]
    for item in record["suites"]:
        plain, ours = item["plain"], item["ours"]
        cells = [
            item["name"],
            *(f"{statistics.median(side['seconds']):.1f}" for side in (plain, ours)),
            f"{item['ratio']:.2f}x",
            f"{item['cpu_ratio']:.2f}x",
            *(f"{side['tokens']:,}" for side in (plain, ours)),
            *(f"{side['peak_bytes'] / 2**20:.0f}" if side["peak_bytes"] else "" for side in (plain, ours)),
            f"{item['memory_ratio']:.2f}" if item["memory_ratio"] else "",
            f"{item['largest_difference']:.0e}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def plan(record: dict[str, Any]) -> list[str]:
    """Return the table of predicted and measured memory."""
    lines = [
        "## Memory that `expunge plan` predicts",
        "",
        "Predicted and measured peaks of a training on a CPU, above imports and rows. glibc is configured to return "
        "freed blocks at once (`MALLOC_MMAP_THRESHOLD_=131072`); by default it keeps some, which cannot be predicted.",
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
    """Return the table of RMU's later passes."""
    lines = [
        "## RMU's later passes",
        "",
        "Hidden states below the lowest trained layer, and the frozen model's hidden states at the steered layer, are "
        "cached when a row is first used and read in later passes (`method.store_gib`). Ratios are seconds per step "
        f"without the cache over seconds with it, in alternating steps and passes of {record['steps_per_pass']} steps; "
        "for first passes the difference from 1 is noise.",
        "",
        "| method | repeated rows | first pass | later passes | MiB cached |",
        "|---|---|---|---|---|",
    ]
    for item in record["methods"]:
        lines.append(
            f"| {item['method']} | {item['repeated']} | {item['first_ratio']:.2f}x | {item['later_ratio']:.2f}x | "
            f"{item['cached_bytes'] / 2**20:.0f} |"
        )
    return [*lines, ""]


def sampling(record: dict[str, Any]) -> list[str]:
    """Return the table of the cost of sampled answers."""
    machine = record["machine"]
    lines = [
        "## Sampled answers",
        "",
        f"CPU seconds of {record['samples']} sampled answers per question over those of one greedy answer, at most "
        f"{record['max_new_tokens']} tokens, {record['model']} on {machine['cpu']} with {machine['threads']} threads. "
        "Samples of a question share the forward pass of its prompt, and of all tokens that are equal so far. Alone, a "
        "greedy answer hardly uses the CPU; together, greedy answers to many questions share their batches, too.",
        "",
        "| questions per call | ratio | tokens run | of separate samples |",
        "|---|---|---|---|",
    ]
    for item in record["settings"]:
        calls = len(item["greedy_cpu_seconds"])
        lines.append(
            f"| {item['questions'] // calls} | {item['ratio']:.1f}x | {item['tokens']} | "
            f"{item['tokens'] / item['separate_tokens']:.0%} |"
        )
    return [*lines, ""]


def memory(record: dict[str, Any]) -> list[str]:
    """Return the table of slopes per setting, and the plot."""
    base = ", ".join(f"{name} {value}" for name, value in record["base"].items())
    lines = [
        "## Growth of memory",
        "",
        f"Peak memory of {record['method']} above imports; one setting is doubled at a time, the others are {base}. "
        "The slope is that of log memory over log setting: 1 is proportional growth.",
        "",
        "| setting | values | ours MiB | plain MiB | slope | plain |",
        "|---|---|---|---|---|---|",
    ]
    for axis in record["axes"]:
        ours, plain = (" ".join(f"{size / 2**20:.0f}" for size in axis[f"{side}_bytes"]) for side in ("ours", "plain"))
        values = " ".join(map(str, axis["values"]))
        lines.append(
            f"| {axis['axis']} | {values} | {ours} | {plain} | {axis['ours_slope']:.2f} | {axis['plain_slope']:.2f} |"
        )
    return [*lines, "", "![Peak memory over each setting](performance-memory.svg)", ""]


def view(record: dict[str, Any]) -> list[str]:
    """Return the table of the viewer's requests."""
    queries = record["searches"]
    slowest = {
        f"list of {record['runs']:,} runs": max(record["lists"], key=lambda cost: cost["cpu_seconds"]),
        "list after all runs have changed": record["changed_list"],
        **{f"search for `{query}` in {record['rows']:,} rows": cost for query, cost in queries.items()},
        "another page of the last search": record["page"],
    }
    lines = [
        "## The viewer",
        "",
        f"`expunge view` over {record['runs']:,} runs, one of which has {record['rows']:,} rows of samples "
        f"({record['sample_bytes'] / 2**20:.0f} MiB of Parquet), on {record['machine']['cpu']}. CPU seconds are those "
        "of the viewer in all its threads; on an idle machine an answer takes at most as long. Seconds are those of "
        "the request, and include the other load of the machine. Starting, which reads all runs, takes "
        f"{record['start']['cpu_seconds']:.1f} CPU seconds. The largest memory, after all of these requests, a "
        f"comparison and a report, is {record['peak_bytes'] / 1e6:.0f} MB. Models of a chat come on top.",
        "",
        "| request | CPU seconds | seconds |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {cost['cpu_seconds']:.2f} | {cost['seconds']:.2f} |" for name, cost in slowest.items()]
    return [*lines, ""]


def plot(record: dict[str, Any], path: Path) -> None:
    """Plot memory over each setting on logarithmic axes."""
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
    figure.savefig(path, metadata={"Date": None})


SECTIONS = {
    "training": training,
    "training-trl": against_trl,
    "row_store": row_store,
    "evaluation": evaluation,
    "sampling": sampling,
    "memory": memory,
    "plan": plan,
    "view": view,
}
"""Name of a record -> function that returns its section, in the order of the page."""


def page() -> str:
    """Return the full page."""
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
