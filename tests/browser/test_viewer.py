"""The viewer in a real browser: list, report, comparison, search, progress, chat; keyboard, narrow, dark, roles.

The browser is playwright's Chromium, one named by the environment variable EXPUNGE_CHROMIUM, or the system's. Without
one, the tests are skipped: `pip install playwright && playwright install chromium`.
"""

import json
import os
import shutil
import socket
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
import yaml

from expunge.config.recipe import Scratch
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.records import Manifest, RunSummary
from expunge.rundir import read_record, write_record
from expunge.view.folder import RunFolder
from expunge.view.server import make_app

HOW = "pip install playwright && playwright install chromium"
playwright = pytest.importorskip("playwright.sync_api", reason=f"no browser; install one with: {HOW}")

RUNS = Path(__file__).parents[2] / "results/runs"
TOKEN = "token-of-the-browser-tests"
HOSTILE = (
    "<img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script> \x1b[31mred"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: two finished ones, and one in training with a checkpoint and hostile texts."""
    root = tmp_path_factory.mktemp("viewer") / "runs"
    for name in ("forget10-npo", "forget05-simnpo"):
        shutil.copytree(RUNS / name, root / name)
    training = root / "training"
    shutil.copytree(root / "forget10-npo", training)
    recipe = yaml.safe_load((training / "recipe.yaml").read_text())
    recipe |= {"name": "training", "model": {"name": "org/base"}, "prompt": {"style": "chat"}}
    (training / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tokenizer = train_tokenizer(["Where was she born? In Bern."] * 20, 300, 128)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
    build_scratch(scratch, tokenizer, seed=0).save_pretrained(training / "checkpoint")
    tokenizer.save_pretrained(training / "checkpoint")
    manifest = read_record(training / "manifest.json", Manifest)
    write_record(training / "manifest.json", manifest.model_copy(update={"models": {}}))
    (training / "summary.json").unlink()
    lines = (training / "train.jsonl").read_text().splitlines()
    (training / "train.jsonl").write_text("\n".join(lines[:20]) + "\n")
    (training / "samples").mkdir()
    rows = {"question": [f"Question {i}" for i in range(45)], "generation": [HOSTILE, *["In Bern"] * 44]}
    pq.write_table(pa.table(rows), training / "samples/unlearned-tofu-000025.parquet")
    hostile = read_record(root / "forget05-simnpo/summary.json", RunSummary)
    verdict = hostile.verdict.model_copy(update={"sentence": HOSTILE})
    write_record(root / "forget05-simnpo/summary.json", hostile.model_copy(update={"verdict": verdict}))
    return root


@pytest.fixture(scope="module")
def address(runs):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(make_app(RunFolder(runs), port, TOKEN), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("EXPUNGE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    # Chromium has no sandbox for the administrator, as whom containers run.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=path, args=options)
        except playwright.Error as error:
            pytest.skip(f"no browser ({str(error).splitlines()[0]}); install one with: {HOW}")
        yield started
        started.close()


def _is_problem(message):
    """Return whether a message is an error, such as a refused script; a missing run is answered with 404."""
    return message.type == "error" and "404" not in message.text


@pytest.fixture
def page(browser, address):
    """A page that has opened the viewer; errors and refused scripts fail the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if _is_problem(message) else None)
    opened.set_default_timeout(20_000)
    opened.goto(f"{address}?token={TOKEN}")
    opened.get_by_role("heading", name="Runs").wait_for()
    yield opened
    context.close()
    assert problems == []


def cells(page, column):
    return page.locator(f'tbody td[data-label="{column}"]').all_inner_texts()


def test_the_token_leaves_the_address(page, address):
    assert page.url == address
    assert page.evaluate("document.cookie") == ""
    page.reload()
    page.get_by_role("heading", name="Runs").wait_for()


def test_list_sort_and_filter(page):
    assert page.get_by_text("3 of 3 runs").is_visible()
    page.get_by_role("button", name="Forget quality").click()
    header = page.get_by_role("columnheader", name="Forget quality")
    assert header.get_attribute("aria-sort") == "ascending"
    first = page.locator("tbody th a").all_inner_texts()
    page.get_by_role("button", name="Forget quality").click()
    assert header.get_attribute("aria-sort") == "descending"
    # The run in training has no value and stays last.
    assert page.locator("tbody th a").all_inner_texts() == [first[1], first[0], first[2]]
    assert first[2] == "training"
    page.get_by_label("Filter").fill("simnpo")
    assert page.get_by_text("1 of 3 runs").is_visible()
    assert cells(page, "Method") == ["simnpo"]


def test_report_is_shown_in_a_frame_without_access(page):
    page.get_by_role("link", name="forget10-npo", exact=True).click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", level=1).wait_for()
    inner = page.frames[1]
    assert inner.evaluate("self.origin") == "null"
    # It can neither read the page around it nor ask the server; the refusals below are expected.
    assert inner.evaluate("(() => { try { return parent.document.title } catch (error) { return error.name } })()") == (
        "SecurityError"
    )


def test_compare_two_runs(page):
    page.get_by_label("Select forget10-npo").check()
    assert page.get_by_role("button", name="Compare").is_disabled()
    page.get_by_label("Select forget05-simnpo").check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="Comparison").wait_for()
    settings = page.get_by_role("region", name="Settings that differ")
    assert settings.get_by_role("row", name="data.split forget10 forget05").is_visible()
    assert page.get_by_role("region", name="Headlines").get_by_text("[").count() > 2
    assert page.get_by_role("note").is_visible()


def test_search_and_pages(page, address):
    page.goto(f"{address}#/run/training/samples")
    page.get_by_text("1–20 of 45 matches").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("21–40 of 45 matches").wait_for()
    page.get_by_label("Search").fill("question 44")
    page.get_by_text("1–1 of 1 matches").wait_for()
    assert page.locator("mark").all_inner_texts() == ["Question", "44"]
    assert page.get_by_role("article", name="Row 45").is_visible()


def test_hostile_texts_are_shown_as_text(page, address):
    """Script tags and ANSI codes of texts, verdicts and names do nothing."""
    page.goto(f"{address}#/run/training/samples")
    page.get_by_label("Search").fill("script")
    page.get_by_text("1–1 of 1 matches").wait_for()
    shown = page.get_by_role("article").inner_text()
    assert "<script>document.title='broken into'</script> ␛[31mred" in shown
    page.goto(f"{address}#/run/forget05-simnpo/progress")
    page.get_by_text("<script>").wait_for()
    page.goto(f"{address}#/run/<img src=x onerror=alert(1)>/report")
    page.get_by_role("alert").wait_for()
    assert "broken into" not in page.title()
    assert page.locator("img, script:not([src])").count() == 0
    page.goto(address)


def test_progress_of_a_training_is_live(page, address, runs):
    page.goto(f"{address}#/run/training/progress")
    page.get_by_text("Step 20 of").wait_for()
    assert page.get_by_role("img", name="Loss over steps").is_visible()
    assert page.get_by_text("of training left").is_visible()
    log = runs / "training/train.jsonl"
    lines = (RUNS / "forget10-npo/train.jsonl").read_text().splitlines()
    log.write_text("\n".join(lines[:30]) + "\n")
    page.get_by_text("Step 30 of").wait_for()


def test_chat(page, address):
    page.goto(f"{address}#/run/training/chat")
    page.get_by_label("Prompt").fill("Where was she born?")
    page.get_by_label("True answer").fill("In Bern.")
    page.get_by_label("Largest number of new tokens").fill("5")
    page.get_by_role("button", name="Ask").click()
    answer = page.get_by_role("region", name="Unlearned model")
    answer.get_by_text("per token").wait_for(timeout=60_000)
    answer.get_by_text("cut at the limit").wait_for()
    assert page.get_by_role("region", name="Target").get_by_text("is not part of this run").is_visible()
    assert page.get_by_role("button", name="Ask").is_enabled()


def test_keyboard_alone(page):
    """From the start of the page: skip, filter, sort, select two, compare."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    page.keyboard.type("tofu-llama")
    assert page.get_by_text("2 of 3 runs").is_visible()
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        label = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent")
        seen.append(label)
        if label.startswith("Select "):
            page.keyboard.press("Space")
        if label == "Model utility":
            page.keyboard.press("Enter")
            assert page.get_by_role("columnheader", name="Model utility").get_attribute("aria-sort") == "ascending"
    assert {"Select forget10-npo", "Select forget05-simnpo", "Table of runs"} <= set(seen)
    page.get_by_role("button", name="Compare").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Comparison").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"


PAGES = ["", "#/run/training/report", "#/run/training/progress", "#/run/training/samples", "#/run/training/chat"]
PAGES += ["#/compare/forget10-npo/forget05-simnpo"]


@pytest.mark.parametrize("where", PAGES)
def test_narrow_and_dark(page, address, where):
    """At 375 pixels nothing is cut off; with a dark system the page is dark, with light text."""
    page.set_viewport_size({"width": 375, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}{where}")
    page.locator("main:not([aria-busy])").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    ink, paper = page.evaluate("['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name])")
    assert sum(json.loads(ink.replace("rgb(", "[").replace(")", "]"))) > 600
    assert sum(json.loads(paper.replace("rgb(", "[").replace(")", "]"))) < 150


@pytest.mark.parametrize("where", PAGES)
def test_everything_has_a_name_for_a_screen_reader(page, address, where):
    page.goto(f"{address}{where}")
    page.locator("main:not([aria-busy])").wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select, textarea, iframe, [role]")].filter((node) =>
             !(node.ariaLabel || node.title || node.textContent.trim() || node.labels?.length || node.role === "status"
               || node.role === "alert")).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
