"""Generated pages match the output of their generators."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TOOLS = DOCS.parent / "tools" / "docs"


@pytest.mark.parametrize(
    "stem", ["methods", "results", "performance", "models", "audits", "statistics", "requests", "openunlearning"]
)
def test_generated_page_is_up_to_date(stem: str) -> None:
    spec = importlib.util.spec_from_file_location(f"make_{stem}", TOOLS / f"make_{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == (DOCS / f"{stem}.md").read_text(encoding="utf-8"), f"run: python tools/docs/make_{stem}.py"
