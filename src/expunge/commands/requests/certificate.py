"""Certificates: what was removed for one request, how that was measured, and the hashes of everything involved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from expunge.commands.requests.hashing import canonical_json, content_hash, file_hash, model_file_hashes
from expunge.commands.requests.ledger import History, Ledger, differing_files, now
from expunge.commands.requests.signing import load_private_key, sign
from expunge.errors import DataError, UserError
from expunge.records import Battery, Manifest, RunSummary
from expunge.records.requests import Applied, Certificate, Certified
from expunge.rundir import read_record, write_atomic

_RECORDS = ("recipe.yaml", "manifest.json", "summary.json", "train.jsonl", "battery.json")


def certify(folder: str | Path, request: str, out: str | Path, key: str | Path | None = None) -> Certificate:
    """Write the certificate of a request that was unlearned, and record its hash in the ledger.

    The file is one line of canonical JSON: the content by section, the SHA-256 of each section and of the content, and
    the signature or null.

    Args:
        folder: The ledger's folder.
        request: Id of the request.
        out: File to write.
        key: File with an Ed25519 private key (PEM); None for no signature.

    Raises:
        UserError: There is no such request, it is pending, its model or records were changed, the key cannot be used,
            or the file exists.
        MissingExtraError: A key is given, and the package cryptography is not installed.
    """
    ledger, path = Ledger(folder), Path(out)
    history = ledger.history()
    applied = history.application(request)
    if path.exists():
        raise UserError(f"{path} exists already.", fix="Give another file for the certificate.")
    private_key = None if key is None else load_private_key(Path(key))
    _check_model(ledger, applied)
    certificate = _certificate(ledger, history, applied)
    content = certificate.model_dump(mode="json")
    signature = None if private_key is None else sign(canonical_json(content).encode(), private_key)
    with ledger.writing() as current:
        write_atomic(path, certificate_text(content, None if signature is None else signature.model_dump()))
        event = Certified(id=request, certificate=content_hash(content), signed=signature is not None)
        ledger.append(current, event)
    return certificate


def certificate_text(content: Mapping[str, Any], signature: Mapping[str, str] | None) -> str:
    """Return the text of a certificate's file."""
    hashes = {name: content_hash(section) for name, section in content.items()}
    document = {"content": content, "hash": content_hash(content), "hashes": hashes, "signature": signature}
    return canonical_json(document) + "\n"


def record_hashes(run: Path) -> dict[str, str]:
    """Return the SHA-256 of each record of a run that has no texts, by path in the run's folder."""
    files = [*(run / name for name in _RECORDS), *run.glob("results/*.json"), *run.glob("audits/*.json")]
    return {path.relative_to(run).as_posix(): file_hash(path) for path in sorted(files) if path.is_file()}


def _check_model(ledger: Ledger, applied: Applied) -> None:
    """Raise if the checkpoint was changed; one that was deleted is certified by its recorded hashes."""
    folder = ledger.checkpoint(applied)
    if folder.is_dir() and (changed := differing_files(applied.model_files, model_file_hashes(folder))):
        raise DataError(
            f"the checkpoint {folder} was changed after it was recorded: {', '.join(changed[:5])}.",
            fix="Restore the folder from a backup.",
        )


def _certificate(ledger: Ledger, history: History, applied: Applied) -> Certificate:
    run = ledger.checkpoint(applied).parent
    summary, manifest = read_record(run / "summary.json", RunSummary), read_record(run / "manifest.json", Manifest)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    request = history.requested[applied.id]
    entry, digest = history.entry_of(applied)
    names = list(history.applied)
    position = names.index(applied.id)
    before = history.applied[names[position - 1]].model_files if position else history.opened.model_files
    return Certificate(
        request={
            "id": applied.id,
            "received": request.received,
            "added": history.entry_of(request)[0].date,
            "unlearned": entry.date,
            "issued": now(),
            "ledger_entry": digest,
        },
        removed={"by": request.by, "num_persons": request.num_persons, "num_rows": len(request.rows)}
        | {"rows": request.rows},
        method={"method": recipe["method"], "train": recipe.get("train"), "seed": recipe["seed"]},
        measured={
            "verdict": summary.verdict.sentence,
            "reasons": summary.verdict.reasons,
            "headlines": {
                role: {name: value.model_dump(mode="json") for name, value in values.items()}
                for role, values in summary.headlines.items()
            },
        },
        audit=_audit(run),
        still_forgotten=_still_forgotten(history, applied.id),
        model={
            "previous_request": names[position - 1] if position else None,
            "previous_files": before,
            "files": applied.model_files,
        },
        data=dict(applied.data),
        records=record_hashes(run),
        software={
            "expunge": manifest.expunge,
            "packages": manifest.packages,
            "git_commit": manifest.git_commit,
            "code": applied.code,
        },
    )


def _audit(run: Path) -> dict[str, Any]:
    path = run / "battery.json"
    if not path.is_file():
        return {"outcome": None, "verdict": "No audit was run on this model."}
    battery = read_record(path, Battery)
    return {"outcome": battery.outcome, "verdict": battery.verdict, "audits": battery.audits}


def _still_forgotten(history: History, request: str) -> dict[str, Any]:
    measured = [event for event in history.measured if request in event.requests]
    if not measured:
        return {"measured": None, "reason": "The request was not measured again after its own run."}
    last = measured[-1]
    facts = {"measured": history.entry_of(last)[0].date, "after_request": last.after}
    return {**facts, **last.requests[request].model_dump(mode="json")}
