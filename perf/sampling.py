"""Measure what many sampled answers to a question cost, in greedy answers to it.

python -m perf.sampling --model MODEL [--questions 40] [--samples 64] [--quick]

MODEL is a folder or a hub id of a model fine-tuned on TOFU. For the environment variable EXPUNGE_TOFU see
perf/model.py. The questions are spread over forget10.

Greedy and sampled answers alternate in one process, and nothing is cached. `one question`: each question by itself, as
someone who asks it; the benchmark fails if its samples cost more than 15 greedy answers. `together`: all questions in
one call, where greedy answers share their batches with those to other questions, so that samples cost more of them.
`--quick` has 4 questions and writes no record.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.audits.shared.outcomes import MAX_NEW_TOKENS, forget_rows, spread
from expunge.config.recipe import Evaluate, Prompt
from expunge.data.templates import Template
from expunge.modeling.load import context_length, load_tokenizer
from expunge.probes.cache import ProbeCache
from expunge.probes.requests import GenerationRequest
from expunge.probes.session import Session
from expunge.records import Record
from expunge.rundir import write_record
from perf.evaluation import RESULTS, counting, load
from perf.measure import machine
from perf.model import tofu_sets

LIMIT = 15.0
"""Most greedy answers that the samples of a question may cost."""


class Setting(Record):
    """Cost of greedy and sampled answers to the same questions."""

    name: str
    questions: int
    greedy_cpu_seconds: list[float]
    """Per call."""
    sampled_cpu_seconds: list[float]
    ratio: float
    """CPU seconds of all samples over those of all greedy answers; wall time also measures other load."""
    largest_ratio: float
    """Of a call."""
    tokens: int
    """Tokens on which the model was run for the samples, without padding."""
    separate_tokens: int
    """Tokens that the same samples would take without sharing prompts and equal beginnings."""


class SamplingCost(Record):
    """Record of this benchmark."""

    created: str
    model: str
    samples: int
    max_new_tokens: int
    machine: dict[str, Any]
    settings: list[Setting]


def measure(session: Session, name: str, calls: Sequence[Sequence[str]], samples: int) -> Setting:
    """Time greedy and sampled answers, alternating.

    Args:
        session: The model, without a cache.
        name: Name of the setting.
        calls: Questions that are answered in one call.
        samples: Samples per question.
    """
    greedy_seconds, sampled_seconds, tokens, separate = [], [], 0, 0
    for questions in calls:
        greedy = [GenerationRequest("forget", i, question, MAX_NEW_TOKENS) for i, question in enumerate(questions)]
        sampled = [
            GenerationRequest("forget", i, question, MAX_NEW_TOKENS, what=str(k), temperature=1.0, seed=1000 * i + k)
            for i, question in enumerate(questions)
            for k in range(samples)
        ]
        start = time.process_time()
        session.generate(greedy)
        middle = time.process_time()
        with counting(session.model) as counts:
            answers = session.generate(sampled)
        sampled_seconds.append(time.process_time() - middle)
        greedy_seconds.append(middle - start)
        tokens += counts[1]
        separate += sum(
            len(session.prompt_ids(request)) + len(session.template.text_ids(answers[request.key]))
            for request in sampled
        )
    return Setting(
        name=name,
        questions=sum(map(len, calls)),
        greedy_cpu_seconds=greedy_seconds,
        sampled_cpu_seconds=sampled_seconds,
        ratio=sum(sampled_seconds) / sum(greedy_seconds),
        largest_ratio=max(b / a for a, b in zip(greedy_seconds, sampled_seconds, strict=True)),
        tokens=tokens,
        separate_tokens=separate,
    )


def main() -> None:
    """Measure, print, write the record, and exit with an error above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="folder or hub id of a model fine-tuned on TOFU")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--samples", type=int, default=64, help="samples per question")
    parser.add_argument("--quick", action="store_true", help="4 questions, no record")
    args = parser.parse_args()
    sets, tokenizer, model = tofu_sets(), load_tokenizer(args.model), load(args.model)
    template = Template(
        tokenizer, Prompt(style="chat" if tokenizer.chat_template else "plain"), context_length(model.config)
    )
    session = Session(model, sets, template, Evaluate().batch_tokens, ProbeCache(None, None), "the model")
    questions = [row.question for row in spread(forget_rows(sets).rows, 4 if args.quick else args.questions)]
    # Before the clock starts: the first call has a trial of how the model generates.
    measure(session, "", [questions[:1]], 2)
    record = SamplingCost(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Path(args.model).name,
        samples=args.samples,
        max_new_tokens=MAX_NEW_TOKENS,
        machine=machine(),
        settings=[
            measure(session, "one question", [[question] for question in questions], args.samples),
            measure(session, "together", [questions], args.samples),
        ],
    )
    for setting in record.settings:
        seconds = statistics.mean(setting.sampled_cpu_seconds)
        share = setting.tokens / setting.separate_tokens
        print(
            f"{setting.name}: {args.samples} samples cost {setting.ratio:.1f} greedy answers "
            f"({seconds:.2f} s per call, {share:.0%} of the tokens of separate samples)"
        )
    if not args.quick:
        write_record(RESULTS / "sampling.json", record)
    if record.settings[0].ratio > LIMIT:
        sys.exit(f"{args.samples} samples cost {record.settings[0].ratio:.1f} greedy answers, more than {LIMIT:g}.")


if __name__ == "__main__":
    main()
