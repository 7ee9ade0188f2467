"""Words that the glossary in CONTRIBUTING.md rules out do not occur in the code and the documentation.

Run `pytest tests/meta/test_glossary.py` to list every occurrence as file:line, one test per package.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADING = "### Words we do not use"
SUFFIXES = {".py", ".md", ".yaml", ".j2"}
DATA = {
    "src/expunge/audits/prompts.py": ["Sure, here is the answer"],
    "src/expunge/data/anchors/mining.py": ["said says asked"],
    "src/expunge/data/templates.py": ["Nobody knows"],
    "src/expunge/methods/altpo.py": ["what the question says"],
}
"""File -> phrases that are data: other words would change results."""


def split_at_glossary(text: str) -> tuple[str, str, str]:
    """Return the text before the section with the words, the section itself, and the text after it."""
    start = text.index(HEADING)
    end = text.find("\n## ", start)
    return text[:start], text[start:end], text[end:]


def compile_phrase(phrase: str) -> re.Pattern[str]:
    """Match a phrase as whole words, also across line breaks; a phrase of several words also as an identifier.

    A single word inside an identifier does not match: `logits_processor` is an API name.
    """
    words = phrase.split()
    if len(words) == 1:
        return re.compile(rf"\b{re.escape(phrase)}\b", re.IGNORECASE)
    joined = r"[\s#_-]+".join(re.escape(word) for word in words)
    return re.compile(rf"(?<![a-z]){joined}(?![a-z])", re.IGNORECASE)


def read_glossary() -> tuple[dict[str, re.Pattern[str]], list[re.Pattern[str]]]:
    """Return the patterns of the words not to use, by word, and the patterns of the exceptions."""
    section = split_at_glossary((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))[1]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    words = [word for row in rows for word in re.findall(r"`([^`]+)`", row[0])]
    exceptions = [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row[2])]
    return {word: compile_phrase(word) for word in words}, [compile_phrase(phrase) for phrase in exceptions]


WORDS, EXCEPTIONS = read_glossary()


def list_files() -> dict[str, list[Path]]:
    """Return the files to check, by folder: every package of src/expunge, docs/, and the pages at the top."""
    package = ROOT / "src" / "expunge"
    files: dict[str, list[Path]] = {"src/expunge": sorted(package.glob("*.py"))}
    folders = [*(path for path in package.iterdir() if path.is_dir()), ROOT / "docs"]
    for folder in sorted(folders):
        paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        if paths:
            files[str(folder.relative_to(ROOT))] = paths
    pages = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
    return files | {name: [ROOT / name] for name in pages}


def find_words(path: Path) -> list[str]:
    """Return one line per occurrence: file, line number and what is wrong."""
    text = path.read_text(encoding="utf-8")
    hits: list[tuple[int, str]] = []
    if path.suffix == ".py":
        hits += [
            (node.lineno, "docstring begins with 'What'")
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and str(node.value.value).lstrip().startswith("What ")
        ]
    if path.name == "CONTRIBUTING.md":
        before, section, after = split_at_glossary(text)
        text = before + "\n" * section.count("\n") + after
    name = str(path.relative_to(ROOT))
    for exception in [*EXCEPTIONS, *map(compile_phrase, DATA.get(name, []))]:
        text = exception.sub(lambda match: "\n" * match.group().count("\n"), text)
    for word, pattern in WORDS.items():
        hits += [(text.count("\n", 0, match.start()) + 1, f"'{word}'") for match in pattern.finditer(text)]
    return [f"{name}:{line}: {problem}" for line, problem in sorted(hits)]


def test_patterns_match_whole_words_only():
    assert len(WORDS) > 20
    assert WORDS["start model"].search("the start\n    # model")
    assert WORDS["start model"].search("load_start_model")
    assert WORDS["processor"].search("on a processor, which")
    assert not WORDS["processor"].search("logits_processor, LogitsProcessor")
    assert not WORDS["sure"].search("measure")


@pytest.mark.parametrize("folder", list_files())
def test_words_are_not_used(folder):
    hits = [hit for path in list_files()[folder] for hit in find_words(path)]
    if hits:
        pytest.fail(f"{len(hits)} words of the glossary in CONTRIBUTING.md:\n" + "\n".join(hits), pytrace=False)
