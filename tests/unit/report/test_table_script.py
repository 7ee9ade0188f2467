"""The script of the question table, run in a real browser where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.report.html import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = """<script>
const box = document.querySelector("[data-table]"), at = (name) => box.querySelector(`[data-role="${name}"]`);
const said = [], say = () => said.push(at("count").textContent);
const shown = () => [...box.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
const type = (text) => { at("search").value = text; at("search").dispatchEvent(new Event("input")); };
say();
at("next").click(); say();
type("no such words"); say(); said.push(shown().length);
type("tOvI bOrN"); say();
said.push(shown().every((row) => /tovi/i.test(row.textContent) && /born/i.test(row.textContent)));
type(""); at("next").click(); type("known"); say(); type("");
at("size").value = "0"; at("size").dispatchEvent(new Event("change")); say();
const header = box.querySelector("th[data-key=after]");
said.push(header.getAttribute("aria-sort"));
header.querySelector("button").click();
said.push(header.getAttribute("aria-sort"));
const scores = shown().map((row) => Number(row.dataset.after));
said.push(scores.every((score, i) => i === 0 || scores[i - 1] <= score));
document.body.innerHTML = "<output>" + said.join("|") + "</output>";
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the path")
def test_search_pages_and_sorting(make_run: Callable[..., Path], tmp_path: Path) -> None:
    text = write_report([make_run()]).read_text(encoding="utf-8")
    # The page's policy forbids any script but its own, this driver too.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", DRIVER + "</body>")
    page = tmp_path / "driven.html"
    page.write_text(text, encoding="utf-8")
    said = _dump(page, tmp_path)
    first, second, none, rows_left, found, all_match, restart, everything, before, after, ascending = said.split("|")
    assert (first, second) == ("1–10 of 60", "11–20 of 60")
    assert (none, rows_left) == ("no match", "0")
    assert re.fullmatch(r"1–\d+ of \d+", found)
    assert all_match == "true"
    assert restart.startswith("1–10 of ")
    assert everything == "1–60 of 60"
    assert (before, after, ascending) == ("descending", "ascending", "true")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the path")
def test_the_policy_lets_our_script_run_and_no_other(make_run: Callable[..., Path], tmp_path: Path) -> None:
    text = write_report([make_run()]).read_text(encoding="utf-8")
    page = tmp_path / "policy.html"
    foreign = "<script>document.body.innerHTML = '<output>foreign script ran</output>'</script>"
    page.write_text(text.replace("</body>", foreign + "</body>"), encoding="utf-8")
    whole = _dump(page, tmp_path, element=None)
    assert "<output>foreign" not in whole.replace(foreign, "")
    assert 'class="scripted"' in whole


def _dump(page: Path, folder: Path, element: str | None = "output") -> str:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    if element is None:
        return done.stdout
    found = re.search(rf"<{element}>(.*?)</{element}>", done.stdout, flags=re.DOTALL)
    assert found is not None, done.stdout[-2000:]
    return found[1]
