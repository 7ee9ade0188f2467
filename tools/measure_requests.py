"""Unlearn ten deletion requests of two people each, one after another, and write results/requests/tofu.json.

python tools/measure_requests.py TARGET RETAIN_MODEL TOFU [KEY.PATH=VALUE]...

TARGET and RETAIN_MODEL are folders or hub ids of a model fine-tuned on TOFU and one fine-tuned on retain90; TOFU is a
folder with the files of huggingface.co/datasets/locuslab/TOFU. After each request all past requests are measured again.
Then every request is certified and the certificates are verified, as they are and with one changed byte each. The same
command resumes an interrupted measurement.
"""

from __future__ import annotations

import datetime
import json
import random
import sys
from pathlib import Path

from expunge.checks.report import CheckItem
from expunge.commands.requests.add import add
from expunge.commands.requests.apply import apply
from expunge.commands.requests.certificate import certify
from expunge.commands.requests.init import init
from expunge.commands.requests.ledger import Ledger
from expunge.commands.requests.status import status
from expunge.commands.requests.verify import verify
from expunge.config.load import load_recipe
from expunge.rundir import write_atomic
from expunge.runs.run import hardware

RECORD = Path(__file__).resolve().parents[1] / "results" / "requests" / "tofu.json"
LEDGER = Path("requests-tofu")
RECIPE = "tofu-forget10-npo"
SETTINGS = [
    "model.dtype=float32",
    "prompt={style: chat}",
    "train.lr=3e-4",
    "train.epochs=10",
    "method.beta=0.1",
    "method.retain_weight=10",
    "evaluate={benchmarks: [{name: custom, limit: 60, generate: false}], every_epoch: false}",
]
FIRST_AUTHOR, PEOPLE_PER_REQUEST, NUM_REQUESTS, UTILITY_ROWS = 180, 2, 10, 200


def open_ledger(target: str, retain_model: str, data: str, overrides: list[str]) -> None:
    """Open the ledger and add the requests: authors 180 and 181, 182 and 183, and so on to 199."""
    models = [f"model.name={target}", f"model.retain_model={retain_model}", f"data.path={data}"]
    if not (LEDGER / "ledger.jsonl").is_file():
        init(LEDGER, load_recipe(RECIPE, [*models, *SETTINGS, *overrides]), utility_rows=UTILITY_ROWS)
    for number in range(len(Ledger(LEDGER).history().requested), NUM_REQUESTS):
        first = FIRST_AUTHOR + PEOPLE_PER_REQUEST * number
        people = [f"author/{author}" for author in range(first, first + PEOPLE_PER_REQUEST)]
        add(LEDGER, f"request-{number + 1:02d}", persons=people)


def unlearn_and_measure() -> None:
    """Unlearn one request at a time and measure all past ones after each."""
    while status(LEDGER).requests[-1].unlearned == "" or not status(LEDGER).is_current:
        # A measurement that was interrupted is made before the next request.
        if status(LEDGER).is_current or not Ledger(LEDGER).history().applied:
            apply(LEDGER, limit=1)
        status(LEDGER, measure=True)


def seconds_between_entries() -> list[float]:
    """Return the seconds of each unlearning and each measurement, from the dates of the ledger's entries."""
    entries = Ledger(LEDGER).history().entries
    dates = [datetime.datetime.fromisoformat(entry.date) for entry in entries]
    return [
        (date - before).total_seconds()
        for before, date, entry in zip(dates, dates[1:], entries[1:], strict=False)
        if entry.event.kind in ("applied", "measured")
    ]


def failed_checks(items: list[CheckItem]) -> list[str]:
    """Return the names of the checks that failed."""
    return [item.name for item in items if item.status == "failed"]


def verify_certificates() -> list[dict[str, object]]:
    """Certify each request, and verify its certificate as it is and with one random byte changed."""
    results: list[dict[str, object]] = []
    choose = random.Random(0)
    for request in Ledger(LEDGER).history().applied:
        path = LEDGER / "certificates" / f"{request}.json"
        if not path.is_file():
            certify(LEDGER, request, path)
        data = bytearray(path.read_bytes())
        position = choose.randrange(len(data))
        data[position] ^= 1
        changed = path.with_suffix(".changed")
        changed.write_bytes(bytes(data))
        results.append(
            {
                "request": request,
                "failed": failed_checks(verify(path, ledger=LEDGER)),
                "changed_byte": position,
                "failed_when_changed": failed_checks(verify(changed, ledger=LEDGER)),
            }
        )
        changed.unlink()
    return results


def main(target: str, retain_model: str, data: str, *overrides: str) -> None:
    """Run the sequence and write the record."""
    open_ledger(target, retain_model, data, list(overrides))
    unlearn_and_measure()
    write(list(overrides))


def write(overrides: list[str]) -> None:
    """Certify all requests that were unlearned, and write the record."""
    names = ["TARGET", "RETAIN_MODEL", "TOFU"]
    record = {
        "command": " ".join(["python", "tools/measure_requests.py", *names, *overrides]),
        "settings": [f"recipe {RECIPE}", *SETTINGS, *overrides],
        "people_per_request": PEOPLE_PER_REQUEST,
        "seconds": seconds_between_entries(),
        "hardware": {name: value for name, value in hardware().items() if name in ("cpu", "threads", "gpu")},
        "status": status(LEDGER).model_dump(mode="json"),
        "certificates": verify_certificates(),
    }
    write_atomic(RECORD, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
