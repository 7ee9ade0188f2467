"""Methods, benchmarks, audits and metrics in a recipe: the base class of the first three, and the types of settings."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from expunge import registry
from expunge.errors import ConfigError, UserError, nearest

if TYPE_CHECKING:
    from expunge.audits.base import Audit
    from expunge.benchmarks.base import Benchmark
    from expunge.methods.base import Method
    from expunge.metrics.base import MetricSpec


class Settings(BaseModel):
    """Base of everything that a recipe sets: frozen, without unknown keys, and with finite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, data: Any) -> Any:
        # pydantic would read true as 1.
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            kinds = _types_of(field.annotation) if field is not None and isinstance(value, bool) else set()
            if kinds & {int, float} and not kinds & {bool, Any}:
                raise ValueError(f"{name} is a number, not {str(value).lower()}")
        return data


def _types_of(annotation: Any) -> set[Any]:
    """Return the single types that an annotation allows, without those inside lists and mappings."""
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return {kind for argument in get_args(annotation) for kind in _types_of(argument)}
    return _types_of(get_args(annotation)[0]) if get_origin(annotation) is Annotated else {annotation}


class Member(Settings):
    """Base of methods, benchmarks and audits; the fields are the settings in YAML."""

    paper: ClassVar[str] = ""
    """Author, year, arXiv number and equation."""
    _name: str = PrivateAttr(default="")

    def model_post_init(self, context: Any) -> None:
        """Save the name by which a recipe refers to this member."""
        self._name = (context or {}).get("name", "") or _module_name(type(self).__module__)

    @property
    def name(self) -> str:
        """Name in recipes: that of the packaged file, or the path of a user's file."""
        return self._name

    @property
    def key(self) -> str:
        """Name in file names and records; for a user's file its stem."""
        return Path(self.name).stem if self.name.endswith(".py") else self.name

    def spec(self) -> dict[str, Any]:
        """Return the settings as a recipe writes them."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def files(self) -> list[str]:
        """Return the files whose content can change a result: a user's code, and files that settings name."""
        return [self.name] if self.name.endswith(".py") else []


def _module_name(module: str) -> str:
    """Return a member's name from its module, `expunge.<package>.<name>[.<file>]`."""
    parts = module.split(".")
    return parts[2] if parts[0] == "expunge" and len(parts) > 2 else parts[-1]


class MemberError(ValueError):
    """Invalid settings of a method, benchmark or audit, with the details for the loader."""

    def __init__(self, member: type[BaseModel], details: ValidationError) -> None:
        self.member, self.details = member, details
        super().__init__(str(details))


def _find(kind: str, name: str) -> Any:
    """Return the class or function behind a name; errors become ValueErrors, to which pydantic adds the path."""
    try:
        return registry.get(kind, name)
    except ConfigError as error:
        raise ValueError(error.problems[0]) from error
    except UserError as error:
        raise ValueError(str(error)) from error


def _resolve(kind: str, value: Any) -> Any:
    """Validate a name or `{name: ..., <settings>}` with the class behind the name."""
    if isinstance(value, BaseModel):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"needs a name, such as {{name: {registry.names(kind)[0]}}}")
    settings = dict(value)
    name = settings.pop("name")
    cls = _find(kind, name)
    try:
        return cls.model_validate(settings, context={"name": name})
    except ValidationError as error:
        raise MemberError(cls, error) from error


def metric_spec(name: str) -> MetricSpec:
    """Return the description of the metric behind a name or behind the path of a Python file.

    Raises:
        ValueError: There is no such metric.
    """
    spec: MetricSpec = _find("metric", name).spec
    return spec


def _check_row_metric(name: str) -> str:
    """Raise if a metric is not computed from single rows."""
    spec = metric_spec(name)
    if spec.needs:
        return name
    if name.endswith(".py"):
        raise ValueError(f"{name}: add the columns that {spec.name} is computed from to its decorator: needs=('nll',)")
    raise ValueError(f"'{name}' is computed from full sets, not row by row. {nearest(name, registry.row_metrics())}")


def _dump(value: Any) -> Any:
    return value.spec() if isinstance(value, Member) else value


if TYPE_CHECKING:
    MethodField = Method
    BenchmarkField = Benchmark
    AuditField = Audit
else:
    _SCHEMA = WithJsonSchema(
        {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": True,
        }
    )

    def _field(kind: str) -> Any:
        return Annotated[Any, BeforeValidator(lambda value: _resolve(kind, value)), PlainSerializer(_dump), _SCHEMA]

    MethodField, BenchmarkField, AuditField = _field("method"), _field("benchmark"), _field("audit")

RowMetric = Annotated[str, AfterValidator(_check_row_metric)]
"""Name of a metric of single rows, or path of a Python file that defines one."""
