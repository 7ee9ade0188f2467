"""Verify a certificate: by itself, and beside the ledger and the run that it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expunge.checks.report import CheckItem, NotChecked, run_checks
from expunge.commands.requests.certificate import record_hashes
from expunge.commands.requests.hashing import canonical_json, content_hash, model_file_hashes
from expunge.commands.requests.ledger import History, Ledger, differing_files
from expunge.commands.requests.signing import is_valid, load_public_key
from expunge.errors import DataError, one_line
from expunge.records import SCHEMA_VERSION
from expunge.records.requests import Certificate, Signature

_PARTS = {"content", "hash", "hashes", "signature"}
_NO_LEDGER = "no ledger was given (--ledger LEDGER)"


def verify(
    certificate: str | Path, *, public_key: str | Path | None = None, ledger: str | Path | None = None
) -> list[CheckItem]:
    """Check a certificate; a changed byte anywhere in the file fails.

    Args:
        certificate: The certificate's file.
        public_key: File with the Ed25519 public key (PEM) of the signer; None accepts the key in the certificate,
            which proves nothing about who signed.
        ledger: Folder of the ledger, to compare the model, the records and the chain too; None without it.

    Returns:
        One result per check, with the reason where a check failed or was not possible.

    Raises:
        DataError: The certificate or the public key is missing.
        MissingExtraError: A public key is given, and the package cryptography is not installed.
    """
    try:
        data = Path(certificate).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"the certificate {certificate} does not exist or is a folder.") from error
    key = None if public_key is None else load_public_key(Path(public_key))
    checks = _Checks(data, key, None if ledger is None else Ledger(ledger))
    return run_checks(
        [
            ("format", checks.format),
            ("content", checks.content),
            ("signature", checks.signature),
            ("chain", checks.chain),
            ("request", checks.request),
            ("model", checks.model),
            ("records", checks.records),
        ],
        # A missing package is a reason why a signature was not checked, not an invalid certificate.
        here=False,
    )


class _Checks:
    """The checks of one certificate."""

    def __init__(self, data: bytes, key: str | None, ledger: Ledger | None) -> None:
        self._data, self._key, self._ledger = data, key, ledger
        self._document: dict[str, Any] = {}
        self._certificate: Certificate | None = None
        self._history: History | None = None

    def format(self) -> str:
        """Check that the file is a certificate in its one canonical form."""
        try:
            document = json.loads(self._data)
            canonical = canonical_json(document).encode() + b"\n"
        except (ValueError, RecursionError) as error:
            raise DataError(f"the file is not JSON: {one_line(error)[:200]}.") from error
        if self._data != canonical:
            pairs = zip(self._data, canonical, strict=False)
            same = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), len(canonical))
            raise DataError(f"byte {same + 1} was changed: the file is not canonical JSON.")
        if not isinstance(document, dict) or document.keys() != _PARTS:
            raise DataError(f"the file is not a certificate: its parts are not {', '.join(sorted(_PARTS))}.")
        content = document["content"]
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(f"it has record format {version}, and this version of expunge reads {SCHEMA_VERSION}.")
        try:
            certificate = Certificate.model_validate(content)
        except ValidationError as error:
            raise DataError(f"the content is not that of a certificate: {one_line(error)[:200]}.") from error
        self._document, self._certificate = document, certificate
        return f"canonical JSON, record format {version}"

    def content(self) -> str:
        """Check the hash of each section and of the content."""
        self._stated()
        content, hashes = self._document["content"], self._document["hashes"]
        actual = {name: content_hash(section) for name, section in content.items()}
        if changed := differing_files(hashes if isinstance(hashes, dict) else {}, actual):
            raise DataError(f"changed after it was issued: {', '.join(changed)}.")
        if self._document["hash"] != content_hash(content):
            raise DataError("the hash of the content was changed.")
        return f"{len(actual)} sections have their hashes, SHA-256 {self._document['hash'][:16]}..."

    def signature(self) -> str:
        """Check the signature, with the given public key or the one in the certificate."""
        self._stated()
        stated = self._document["signature"]
        if stated is None:
            if self._key is not None:
                raise DataError("the certificate has no signature.")
            raise NotChecked("the certificate has no signature")
        try:
            signature = Signature.model_validate(stated)
        except ValidationError as error:
            raise DataError(f"the signature is malformed: {one_line(error)[:200]}.") from error
        if self._key is not None and signature.public_key != self._key:
            raise DataError("the certificate was signed with another key.")
        if not is_valid(canonical_json(self._document["content"]).encode(), signature):
            raise DataError("the signature does not belong to this content and key.")
        if self._key is not None:
            return "signed with the given key"
        return (
            f"valid for the key in the certificate ({signature.public_key[:16]}...); whose key that is was not checked "
            "(--public-key FILE)"
        )

    def chain(self) -> str:
        """Check the ledger's chain, and that it has the issue of this certificate."""
        if self._ledger is None:
            raise NotChecked(_NO_LEDGER)
        self._history = self._ledger.history()
        request, digest = self._stated().request.get("id"), self._document["hash"]
        issued = [event for event in self._history.certified if (event.id, event.certificate) == (request, digest)]
        if not issued:
            raise DataError(f"the ledger did not issue this certificate of request '{request}'.")
        if issued[0].signed and self._document["signature"] is None:
            raise DataError("the ledger issued it with a signature, which was removed.")
        return f"{len(self._history.entries)} entries follow each other, and one is the issue of this certificate"

    def request(self) -> str:
        """Check that the ledger's entries state the same request, rows and model."""
        certificate, history = self._stated(), self._linked()
        applied = history.application(str(certificate.request.get("id")))
        request = history.requested[applied.id]
        same = {
            "request": certificate.request.get("ledger_entry") == history.entry_of(applied)[1],
            "removed": certificate.removed.get("rows") == request.rows,
            "model": certificate.model.get("files") == applied.model_files,
            "data": certificate.data == applied.data,
        }
        if different := [name for name, is_same in same.items() if not is_same]:
            raise DataError(f"the ledger states something else about: {', '.join(different)}.")
        return f"the ledger states the same {len(request.rows)} rows, model and data"

    def model(self) -> str:
        """Check the files of the checkpoint."""
        certificate, history = self._stated(), self._linked()
        assert self._ledger is not None
        folder = self._ledger.checkpoint(history.application(str(certificate.request.get("id"))))
        if not folder.is_dir():
            raise NotChecked(f"the checkpoint {folder} is gone")
        files = dict(certificate.model.get("files", {}))
        if changed := differing_files(files, model_file_hashes(folder)):
            raise DataError(f"files of {folder} were changed: {', '.join(changed)}.")
        return f"{len(files)} files of {folder} are unchanged"

    def records(self) -> str:
        """Check the records of the run."""
        certificate, history = self._stated(), self._linked()
        assert self._ledger is not None
        run = self._ledger.checkpoint(history.application(str(certificate.request.get("id")))).parent
        if not run.is_dir():
            raise NotChecked(f"the run {run} is gone")
        # Audits that were run later are no change of the records that were there.
        actual = {name: digest for name, digest in record_hashes(run).items() if name in certificate.records}
        if changed := differing_files(certificate.records, actual):
            raise DataError(f"records of {run} were changed: {', '.join(changed)}.")
        return f"{len(actual)} records of {run} are unchanged"

    def _stated(self) -> Certificate:
        if self._certificate is None:
            raise NotChecked("the file is not a certificate")
        return self._certificate

    def _linked(self) -> History:
        if self._ledger is None:
            raise NotChecked(_NO_LEDGER)
        if self._history is None:
            raise NotChecked("the ledger cannot be read")
        return self._history
