"""What methods, benchmarks and audits have in common: frozen settings under a name, and how a recipe names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
)

from expunge import registry
from expunge.errors import ConfigError, UserError


class Member(BaseModel):
    """Base of everything that a recipe names; its fields are the settings in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    paper: ClassVar[str] = ""
    """Author, year, arXiv number and equation."""
    _name: str = PrivateAttr(default="")

    def model_post_init(self, context: Any) -> None:
        """Remember the name under which a recipe asked for this."""
        self._name = (context or {}).get("name", "") or _module_name(type(self).__module__)

    @property
    def name(self) -> str:
        """Name in recipes: the file's stem, or the path of a user's file."""
        return self._name

    @property
    def key(self) -> str:
        """Name in file names and records: a user's file by its stem."""
        return Path(self.name).stem if self.name.endswith(".py") else self.name

    def spec(self) -> dict[str, Any]:
        """Settings as a recipe writes them."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def files(self) -> list[str]:
        """Files whose content can change a number: a user's own code, and whatever the settings name."""
        return [self.name] if self.name.endswith(".py") else []


def _module_name(module: str) -> str:
    """Return the member's name from its module: `expunge.<room>.<name>[.<file>]`."""
    parts = module.split(".")
    return parts[2] if parts[0] == "expunge" and len(parts) > 2 else parts[-1]


class MemberError(ValueError):
    """The settings of a method or benchmark are wrong; carries the details to the loader."""

    def __init__(self, member: type[BaseModel], details: ValidationError) -> None:
        self.member, self.details = member, details
        super().__init__(str(details))


def _resolve(kind: str, value: Any) -> Any:
    """Validate `{name: ..., <settings>}` with the class behind the name."""
    if isinstance(value, BaseModel):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"needs a name, such as {{name: {registry.names(kind)[0]}}}")
    settings = dict(value)
    name = settings.pop("name")
    try:
        cls = registry.get(kind, name)
    except ConfigError as error:
        raise ValueError(error.problems[0]) from error
    except UserError as error:
        raise ValueError(str(error)) from error
    try:
        return cls.model_validate(settings, context={"name": name})
    except ValidationError as error:
        raise MemberError(cls, error) from error


def _dump(value: Any) -> Any:
    return value.spec() if hasattr(value, "spec") else value


_MEMBER_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": True,
}


def _named(kind: str) -> BeforeValidator:
    return BeforeValidator(lambda value: _resolve(kind, value))


MethodField = Annotated[Any, _named("method"), PlainSerializer(_dump), WithJsonSchema(_MEMBER_SCHEMA)]
BenchmarkField = Annotated[Any, _named("benchmark"), PlainSerializer(_dump), WithJsonSchema(_MEMBER_SCHEMA)]
AuditField = Annotated[Any, _named("audit"), PlainSerializer(_dump), WithJsonSchema(_MEMBER_SCHEMA)]
