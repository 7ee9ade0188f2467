"""Certificates of deletion requests: signatures, and that no byte can be changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.commands.requests.certificate import certificate_text, certify
from expunge.commands.requests.hashing import canonical_json
from expunge.commands.requests.ledger import Ledger
from expunge.commands.requests.signing import is_valid, load_private_key, load_public_key, sign
from expunge.commands.requests.verify import verify
from expunge.config.load import load_recipe
from expunge.errors import DataError, MissingExtraError, UserError
from expunge.records.requests import Certificate, Opened, Requested

CERTIFICATE = Certificate(
    request={"id": "a"},
    removed={"num_rows": 1, "rows": ["00"]},
    method={"method": {"name": "npo"}},
    measured={"verdict": "Forgotten.", "headlines": {"unlearned": {"forget_knowledge": 0.1}}},
    audit={"outcome": None},
    still_forgotten={"measured": None},
    model={"files": {"model.safetensors": "11"}},
    data={"forget": "22"},
    records={"summary.json": "33"},
    software={"expunge": "0.1.0", "code": "44"},
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A folder with Ed25519 keys of openssl: key.pem, public.pem, and those of another signer; and an RSA key."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("", "other-"):
        generate = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}key.pem"]
        public = ["openssl", "pkey", "-in", folder / f"{name}key.pem", "-pubout", "-out", folder / f"{name}public.pem"]
        for words in (generate, public):
            subprocess.run(words, check=True, capture_output=True)
    rsa = ["openssl", "genpkey", "-algorithm", "rsa", "-out", folder / "rsa.pem"]
    locked = [
        "openssl",
        "pkey",
        "-in",
        folder / "key.pem",
        "-aes256",
        "-passout",
        "pass:x",
        "-out",
        folder / "locked.pem",
    ]
    for words in (rsa, locked):
        subprocess.run(words, check=True, capture_output=True)
    return folder


@pytest.fixture
def signed(keys, tmp_path) -> Path:
    """A signed certificate."""
    content = CERTIFICATE.model_dump(mode="json")
    signature = sign(canonical_json(content).encode(), load_private_key(keys / "key.pem"))
    path = tmp_path / "certificate.json"
    path.write_text(certificate_text(content, signature.model_dump()))
    return path


def results(path: Path, **options) -> dict[str, str]:
    return {item.name: item.status for item in verify(path, **options)}


def detail(path: Path, name: str, **options) -> str:
    return next(item.detail for item in verify(path, **options) if item.name == name)


def test_a_certificate_is_valid_for_its_key(signed, keys):
    expected = {"format": "ok", "content": "ok", "signature": "ok"}
    expected |= dict.fromkeys(("chain", "request", "model", "records"), "not checked")
    assert results(signed) == expected
    assert "whose key that is was not checked" in detail(signed, "signature")
    assert results(signed, public_key=keys / "public.pem") == expected
    assert detail(signed, "signature", public_key=keys / "public.pem") == "signed with the given key"
    assert detail(signed, "model") == "no ledger was given (--ledger LEDGER)"


def test_openssl_accepts_the_signature(signed, keys, tmp_path):
    """Ed25519 of RFC 8032 over the canonical JSON of the content: no other tool of ours is needed to verify it."""
    document = json.loads(signed.read_text())
    (tmp_path / "content").write_text(canonical_json(document["content"]))
    (tmp_path / "signature").write_bytes(bytes.fromhex(document["signature"]["value"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys / "public.pem", "-rawin", "-in"]
    words = [*command, tmp_path / "content", "-sigfile", tmp_path / "signature"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    (tmp_path / "content").write_text(canonical_json({**document["content"], "audit": {}}))
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0


@pytest.mark.slow
def test_every_changed_and_every_missing_byte_is_found(signed):
    content = signed.read_bytes()
    for position in range(len(content)):
        others = (b"", content[position : position + 1] * 2, content[position : position + 1].swapcase())
        for replacement in (bytes([content[position] ^ 1]), *others):
            changed = content[:position] + replacement + content[position + 1 :]
            if changed != content:
                signed.write_bytes(changed)
                assert "failed" in results(signed).values(), position


@pytest.mark.parametrize(
    ("change", "check", "problem"),
    [
        (
            lambda text: text.replace('"Forgotten."', '"Forgotten!"'),
            "content",
            "changed after it was issued: measured.",
        ),
        (lambda text: text.replace('"id":"a"', '"id":"b"'), "content", "changed after it was issued: request."),
        (lambda text: text.replace(',"hash":"', ',"hash":"0', 1), "content", "the hash of the content was changed."),
        (
            lambda text: text.replace('"audit":', '"audit": ', 1),
            "format",
            "was changed: the file is not canonical JSON.",
        ),
        (lambda text: text[:-1], "format", "was changed: the file is not canonical JSON."),
        (lambda text: text[:50], "format", "the file is not JSON"),
        (lambda text: "", "format", "the file is not JSON"),
        (lambda text: "\x00", "format", "the file is not JSON"),
        (lambda text: "[" * 100_000, "format", "the file is not JSON"),
        (lambda text: "[1]\n", "format", "its parts are not content, hash, hashes, signature."),
        (lambda text: text.replace('"schema_version":2', '"schema_version":1'), "format", "it has record format 1"),
        (lambda text: text.replace('"Ed25519"', '"RSA"'), "signature", "the signature is malformed"),
        (lambda text: text.replace('"public_key":"', '"public_key":"0'), "signature", "the signature is malformed"),
    ],
)
def test_what_was_changed_is_named(signed, change, check, problem):
    signed.write_text(change(signed.read_text()))
    assert results(signed)[check] == "failed"
    assert problem in detail(signed, check)


def test_a_consistent_forgery_needs_the_key(signed, keys):
    """Content and hashes are changed together; only the signature can show it."""
    document = json.loads(signed.read_text())
    content = {**document["content"], "audit": {"outcome": "indistinguishable"}}
    signed.write_text(certificate_text(content, document["signature"]))
    assert results(signed)["content"] == "ok"
    assert detail(signed, "signature") == "the signature does not belong to this content and key."
    other = sign(canonical_json(content).encode(), load_private_key(keys / "other-key.pem"))
    signed.write_text(certificate_text(content, other.model_dump()))
    assert results(signed)["signature"] == "ok"
    assert detail(signed, "signature", public_key=keys / "public.pem") == "the certificate was signed with another key."


def test_a_removed_signature(signed, keys):
    document = json.loads(signed.read_text())
    signed.write_text(certificate_text(document["content"], None))
    assert results(signed)["signature"] == "not checked"
    assert detail(signed, "signature", public_key=keys / "public.pem") == "the certificate has no signature."


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.pem", "does not exist"),
        ("rsa.pem", "is a key of another kind"),
        ("locked.pem", "is encrypted"),
        ("public.pem", "is not a private key in PEM format"),
    ],
)
def test_unusable_private_keys(keys, name, problem):
    with pytest.raises(DataError, match=problem):
        load_private_key(keys / name)


@pytest.mark.parametrize(
    ("name", "problem"), [("missing.pem", "does not exist"), ("key.pem", "is not a public key in PEM format")]
)
def test_unusable_public_keys(keys, name, problem):
    with pytest.raises(DataError, match=problem):
        load_public_key(keys / name)


def test_without_the_package(signed, keys, monkeypatch):
    """The content is still checked; a key that was given cannot be ignored."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in [name for name in sys.modules if name.startswith("cryptography.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert results(signed)["content"] == "ok"
    assert results(signed)["signature"] == "not checked"
    assert "pip install 'expunge[sign]'" in detail(signed, "signature")
    with pytest.raises(MissingExtraError, match=r"expunge\[sign\]"):
        verify(signed, public_key=keys / "public.pem")
    with pytest.raises(MissingExtraError, match=r"expunge\[sign\]"):
        load_private_key(keys / "key.pem")


def test_signatures_of_other_contents_and_keys(keys):
    key = load_private_key(keys / "key.pem")
    signature = sign(b"content", key)
    assert is_valid(b"content", signature)
    assert not is_valid(b"contents", signature)
    assert signature.public_key == load_public_key(keys / "public.pem")
    assert not is_valid(
        b"content", signature.model_copy(update={"public_key": load_public_key(keys / "other-public.pem")})
    )


def test_requests_that_cannot_be_certified(tmp_path):
    ledger = Ledger(tmp_path / "requests")
    ledger.open(Opened(recipe="", model="m", knows_training_data=True, salt="00" * 32), load_recipe("quickstart"))
    with pytest.raises(UserError, match=r"the ledger has no request 'a'\. The ledger has no requests yet."):
        certify(ledger.folder, "a", tmp_path / "a.json")
    with ledger.writing() as history:
        ledger.append(history, Requested(id="case-1", received="2026-01-31", by="rows", rows=["00"]))
    with pytest.raises(UserError, match=r"no request 'case1'\. Did you mean 'case-1'\?"):
        certify(ledger.folder, "case1", tmp_path / "a.json")
    with pytest.raises(UserError, match="request 'case-1' was not unlearned yet"):
        certify(ledger.folder, "case-1", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_a_missing_certificate(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        verify(tmp_path / "none.json")
