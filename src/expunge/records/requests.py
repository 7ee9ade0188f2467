"""Records of deletion requests: the entries of a ledger, and the certificate of one request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from expunge.records.base import SCHEMA_VERSION, Record, Value


class RetrainRule(Record):
    """When a model that was unlearned again and again should be replaced by one that is trained again."""

    utility_share: float = Field(default=0.9, gt=0, le=1)
    """Due if utility is below this share of the first model's."""
    remaining_share: float = Field(default=0.2, gt=0, lt=1)
    """Due if more than this share of the knowledge of an earlier request is there; at most this share counts as
    forgotten."""
    max_requests: int | None = Field(default=None, ge=1)
    """Due after this many requests; None for no limit."""


class Opened(Record):
    """Begin of a ledger."""

    kind: Literal["opened"] = "opened"
    recipe: str
    """SHA-256 of recipe.yaml in the ledger's folder."""
    model: str
    """Name or path of the first model."""
    model_files: dict[str, str] = Field(default_factory=dict)
    """File of the first model -> SHA-256; empty for a model of the hub."""
    knows_training_data: bool
    """Whether the recipe's sets are all that the first model was trained on, so that other rows are refused."""
    salt: str
    """Key of the hashes of rows, hexadecimal."""
    rule: RetrainRule = RetrainRule()
    utility_rows: int = Field(default=400, ge=1)
    """Largest number of retained rows on which utility is measured."""


class Requested(Record):
    """A deletion request."""

    kind: Literal["requested"] = "requested"
    id: str
    received: str
    """Day of the request."""
    by: Literal["persons", "rows"]
    num_persons: int = 0
    rows: list[str]
    """Salted hash of each row; the texts are in a file that `purge` deletes."""


class Applied(Record):
    """A request that was unlearned; its checkpoint is the current model until the next one."""

    kind: Literal["applied"] = "applied"
    id: str
    run: str
    """Folder of the run, relative to the ledger."""
    model_files: dict[str, str]
    """File of the checkpoint -> SHA-256."""
    data: dict[str, str] = Field(default_factory=dict)
    """Set of the run -> salted hash of its content."""
    code: str
    """SHA-256 of the source files of expunge that ran."""


class Remaining(Record):
    """Knowledge that a model has of the rows of one request, beside the first model and the retain model."""

    knowledge: Value
    """Mean extraction strength of the rows."""
    before: Value
    """The same of the first model."""
    floor: Value
    """The same of the retain model, which never saw the rows."""
    remaining: Value
    """(knowledge - floor) / (before - floor), with a floor of 0 without a retain model."""
    forgotten: bool | None
    """None where it cannot be concluded."""


class Measured(Record):
    """A measurement of all past requests on the current model."""

    kind: Literal["measured"] = "measured"
    after: str
    """Id of the last request that was unlearned."""
    num_applied: int
    utility: Value
    """Mean extraction strength of retained rows."""
    utility_before: Value
    """The same of the first model."""
    requests: dict[str, Remaining]
    unmeasured: dict[str, str] = Field(default_factory=dict)
    """Request -> why it could not be measured again."""
    due: list[str] = Field(default_factory=list)
    """Reasons why a retrain is due; empty if it is not."""


class Certified(Record):
    """A certificate that was issued."""

    kind: Literal["certified"] = "certified"
    id: str
    certificate: str
    """SHA-256 of the certificate's content."""
    signed: bool


class Purged(Record):
    """Requests whose texts were deleted."""

    kind: Literal["purged"] = "purged"
    ids: list[str]
    num_texts: int
    """Rows of files that were removed or replaced by hashes."""


Event = Annotated[Opened | Requested | Applied | Measured | Certified | Purged, Field(discriminator="kind")]


class Entry(Record):
    """One line of a ledger."""

    schema_version: int = SCHEMA_VERSION
    index: int
    """Number of entries before this one."""
    date: str
    previous: str
    """Hash of the previous entry; 64 zeros for the first."""
    event: Event


class Certificate(Record):
    """Content of a certificate of one request; never a text."""

    schema_version: int = SCHEMA_VERSION
    request: dict[str, Any]
    """Id, dates and place in the ledger."""
    removed: dict[str, Any]
    """Number of rows and their salted hashes."""
    method: dict[str, Any]
    """Method, settings and the hash of the recipe."""
    measured: dict[str, Any]
    """Headlines with intervals, and the verdict in words."""
    audit: dict[str, Any]
    """Verdict of the audits, or that none was run."""
    still_forgotten: dict[str, Any]
    """Last measurement of this request on a later model, or that there is none."""
    model: dict[str, Any]
    """Hash of each file of the checkpoint."""
    data: dict[str, Any]
    """Salted hash of each set."""
    records: dict[str, str]
    """Record of the run -> SHA-256."""
    software: dict[str, Any]
    """Versions of expunge and the packages that it ran with, and the hash of its code."""


class Signature(Record):
    """An Ed25519 signature of a certificate's content."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """32 bytes, hexadecimal."""
    value: str = Field(pattern=r"^[0-9a-f]{128}$")
    """64 bytes, hexadecimal."""
