"""Attacks on a finished model: the base class for user-defined ones, and one file or package per packaged audit.

The name of the file or package is the name of the audit on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.lazy import lazy_exports

if TYPE_CHECKING:
    from expunge.audits.base import AUDITED as AUDITED
    from expunge.audits.base import BEFORE as BEFORE
    from expunge.audits.base import CONTROLS as CONTROLS
    from expunge.audits.base import Attempt as Attempt
    from expunge.audits.base import Audit as Audit
    from expunge.audits.base import SampleRow as SampleRow
    from expunge.audits.base import Workload as Workload
    from expunge.audits.shared.arm import Arm as Arm
    from expunge.audits.shared.findings import Rule as Rule
    from expunge.probes.requests import GenerationRequest as GenerationRequest
    from expunge.probes.requests import ScoreRequest as ScoreRequest
    from expunge.probes.session import Session as Session
    from expunge.records import AuditResult as AuditResult
    from expunge.records import Comparison as Comparison
    from expunge.records import Cost as Cost
    from expunge.records import Finding as Finding
    from expunge.records import Value as Value
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "expunge.audits.base": ("Audit", "Attempt", "AUDITED", "BEFORE", "CONTROLS", "SampleRow", "Workload"),
            "expunge.audits.shared.arm": ("Arm",),
            "expunge.audits.shared.findings": ("Rule",),
            "expunge.probes.session": ("Session",),
            "expunge.probes.requests": ("ScoreRequest", "GenerationRequest"),
            "expunge.records": ("AuditResult", "Comparison", "Cost", "Finding", "Value"),
        },
    )
