"""`expunge verify`: check the certificate of a deletion request."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.options import AsJson
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import print_result


def verify(
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="File of the certificate.")],
    public_key: Annotated[
        str | None, typer.Option(metavar="PEM", help="Public key of the signer; without it, the certificate's own.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(metavar="LEDGER", help="Compare chain, model and records of this ledger too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a certificate; any changed byte is found. Exit code 2 if a check fails."""
    from expunge.commands.requests import verify

    with results_only():
        items = verify.verify(certificate, public_key=public_key, ledger=ledger)
    failed = [item for item in items if item.status == "failed"]
    if as_json:
        print_json(items)
    else:
        print_columns(["Check", "Result", "Details"], [[item.name, item.status, item.detail] for item in items])
        num_skipped = sum(item.status == "not checked" for item in items)
        outcome = "NOT valid" if failed else "valid as far as it was checked"
        print_result(f"The certificate is {outcome}: {len(failed)} checks failed, {num_skipped} were not possible.")
    if failed:
        raise typer.Exit(2)
