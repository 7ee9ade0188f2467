"""Numbers and values as text, the same in judgements, reports and on the terminal."""

from __future__ import annotations

import math

from expunge.records.base import Value


def format_number(number: float, digits: int = 3) -> str:
    """Return a number with a fixed count of significant digits.

    Example:
        >>> format_number(0.62), format_number(1.634e-27), format_number(12345.6)
        ('0.620', '1.6e-27', '12,346')
    """
    if math.isnan(number):
        return "not a number"
    if math.isinf(number):
        return "infinite"
    size = abs(number)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{number:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 1000:
        return f"{number:,.0f}"
    return f"{number:#.{digits}g}".rstrip(".")


def format_point(value: Value) -> str:
    """Return the point with its unit: two digits for a p-value, three for everything else."""
    if value.point is None:
        return "cannot be computed"
    log10 = value.extra.get("log10")
    if log10 is None:
        text = format_number(value.point)
    elif value.point == 0 and math.isfinite(log10):
        # The p-value is smaller than any float, but its logarithm is not.
        exponent = math.floor(log10)
        text = f"{10 ** (log10 - exponent):.1f}e{exponent}"
    else:
        text = format_number(value.point, digits=2)
    plain = {"", "1", "ratio", "p", "p-value", "probability", "fraction"}
    if value.unit in plain:
        return text
    return text + ("%" if value.unit in {"%", "percent"} else f" {value.unit}")


def format_interval(value: Value) -> str:
    """Return the interval in brackets; empty without one."""
    if value.point is None or value.low is None or value.high is None:
        return ""
    digits = 2 if "log10" in value.extra else 3
    return f"[{format_number(value.low, digits)}, {format_number(value.high, digits)}]"


def format_note(value: Value) -> str:
    """Return why a value is missing, or how many samples it leaves out and why it has no interval."""
    if value.point is None:
        return f"needs {value.needs}"
    notes = [f"{value.n_missing} not scored"] if value.n_missing else []
    if value.no_interval:
        notes.append(f"no interval: {value.no_interval}")
    return "; ".join(notes)


def format_value(value: Value) -> str:
    """Return a value with its interval, or the reason why there is none.

    Example:
        >>> format_value(Value(point=0.62, low=0.6, high=0.64))
        '0.620 [0.600, 0.640]'
        >>> format_value(Value.missing("a retain model"))
        'cannot be computed: needs a retain model'
    """
    if value.point is None:
        return f"cannot be computed: {format_note(value)}"
    note = format_note(value)
    parts = [format_point(value), format_interval(value), f"({note})" if note else ""]
    return " ".join(part for part in parts if part)
