"""HTML, Markdown and terminal codes in texts that are shown, and secrets that must not be."""

import html.parser
import json
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/report"))
from report_runs import make_run

from expunge.console import note, print_result
from expunge.errors import DataError, printable
from expunge.report.card import write_card
from expunge.report.html import write_report
from expunge.report.load import load_run

__all__ = ["make_run"]

TEXTS = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "closing tags": "</td></table></body></html><script>alert(1)</script>",
    "closing style": "</style><script>alert(1)</script>",
    "closing title": "</title><script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x="',
    "apostrophe": "' onmouseover='alert(1)' x='",
    "comment": "<!-- --><script>alert(1)</script><!--",
    "entity": "&lt;script&gt;&#60;script&#62;",
    "svg": "<svg onload=alert(1)></svg>",
    "cdata": "]]><script>alert(1)</script>",
    "template": "{{ 7*7 }}{% for a in b %}",
    "link": "[click](javascript:alert(1))",
    "picture of another host": "![x](https://evil.example/x.png)",
    "fence": "a\n```\n<script>alert(1)</script>\n```\n",
    "table": "a | b | c",
    "formula": r"$\frac{$ \unknown $$",
    "colour": "\x1b[31mred\x1b[0m",
    "title of the terminal": "\x1b]0;owned\x07",
    "erased line": "visible\r\x1b[2Khidden",
    "eight-bit codes": "\x9b31mred",
    "reversed": "\u202eevil\u202c",
    "NUL and backspace": "a\x00b\x08\x08",
    "emoji and other scripts": "👩‍👩‍👧 שלום 日本語",
    "half of a character": "\ud83d",
}
CODES = {"\x1b", "\x07", "\x9b", "\x00", "\x08", "\r", "\u202e"}


class Page(html.parser.HTMLParser):
    """The elements of a page, its attributes with code, and its links to other hosts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.code, self.hosts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.code += [name for name, _ in attributes if name.startswith("on")]
        self.hosts += [value for name, value in attributes if name in {"src", "href"} and "evil" in str(value)]


@pytest.fixture
def page_of(make_run):
    """Return the parsed report of a run whose name, description, labels and model outputs are a text."""

    def page(text):
        folder = make_run(text=text, name=text, description=text, model={"name": text})
        for path in folder.glob("results/*.json"):
            record = json.loads(path.read_text())
            record["title"] = text
            record["labels"] = {
                name: {**label, "title": text, "explain": text} for name, label in record["labels"].items()
            }
            record["sections"] = [{**section, "title": text} for section in record["sections"]]
            path.write_text(json.dumps(record))
        return Page(write_report([folder]).read_text(encoding="utf-8"))

    return page


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "half of a character"])
def test_text_in_the_report_is_only_text(name, page_of):
    """The page has the same elements as that of a harmless text: no text adds one."""
    page = page_of(TEXTS[name])
    assert page.tags.count("script") <= 1
    assert "img" not in page.tags
    assert page.code == []
    assert page.hosts == []


@pytest.mark.parametrize("name", TEXTS)
def test_text_in_the_model_card_is_only_text(name, make_run):
    text = TEXTS[name]
    if name == "half of a character":
        pytest.skip("YAML cannot hold it; see test_yaml.py and test_records_and_logs.py")
    folder = make_run(name=text, description=text)
    card = write_card(folder / "checkpoint", load_run(folder)).read_text(encoding="utf-8")
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert isinstance(yaml.safe_load(front), dict)
    before_recipe, _, recipe = body.partition("## Recipe")
    assert "<" not in before_recipe
    assert "](" not in before_recipe
    assert not CODES & set(body)
    fence = recipe.split("yaml\n")[0].split("\n")[-1]
    assert recipe.count(f"\n{fence}\n") == 1


@pytest.mark.parametrize("name", TEXTS)
def test_text_on_the_terminal_has_no_codes(name, capsys):
    note(f"Note: {TEXTS[name]}")
    print_result(json.dumps({"text": TEXTS[name]}, ensure_ascii=False))
    captured = capsys.readouterr()
    for shown in (captured.err, captured.out):
        assert not CODES & set(shown)
        shown.encode("utf-8")
    assert json.loads(captured.out)["text"] == TEXTS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_text_in_an_error_has_no_codes(name, cli, monkeypatch):
    def fail(*arguments, **settings):
        raise DataError(f"the row '{TEXTS[name]}' is wrong.")

    monkeypatch.setattr("expunge.commands.check.check", fail)
    outcome = cli("check", "quickstart")
    assert outcome.code == 2
    assert printable(TEXTS[name]) in outcome.err
    assert not CODES & set(outcome.err)


def test_control_printable_keeps_other_texts():
    text = "plain\ttext\nשלום 👩‍👩‍👧 日本語 é"
    assert printable(text) == text


SECRETS = {
    "HF_TOKEN": "hf_planted0123456789",
    "PLANTED_API_KEY": "sk-planted-0123456789",
    "WANDB_API_KEY": "planted-wandb",
}


@pytest.mark.slow
def test_secrets_are_in_no_file_of_a_run(cli, recipe_file, tmp_path, monkeypatch):
    """A full run with planted keys: no file that it writes, and nothing that it prints, contains one of them."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    outcome = cli("run", recipe_file, "evaluate.benchmarks=[]", "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.err
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 5
    contents = [path.read_bytes() for path in files]
    for secret in SECRETS.values():
        assert not any(secret.encode() in content for content in contents)
        assert secret not in outcome.out + outcome.err
