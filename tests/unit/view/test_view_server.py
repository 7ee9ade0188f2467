"""The server: what each route answers, and which requests it refuses."""

import json
import re
import subprocess
import sys

import pytest
from starlette.testclient import TestClient

from expunge.view import server
from expunge.view.folder import RunFolder

PORT, TOKEN = 7117, "right-token"
ADDRESS = f"http://127.0.0.1:{PORT}"
PATHS = [
    "/",
    "/static/app.js",
    "/report/one",
    "/api/runs",
    "/api/runs/one",
    "/api/runs/one/samples/unlearned-tofu-000002",
    "/api/compare?run=one&run=two",
]


@pytest.fixture
def stranger(runs):
    """A client that has not opened the address with the token."""
    with TestClient(server.make_app(RunFolder(runs), PORT, TOKEN), base_url=ADDRESS) as client:
        yield client


@pytest.fixture
def client(stranger):
    """A client with the cookie."""
    assert stranger.get("/", params={"token": TOKEN}).status_code == 200
    return stranger


@pytest.mark.parametrize("path", PATHS)
def test_every_path_needs_the_token(stranger, path):
    for headers in ({}, {"Cookie": f"expunge-view-{PORT}=wrong"}, {"Cookie": f"expunge-view-{PORT}="}):
        response = stranger.get(path, headers=headers)
        assert response.status_code == 401
        assert "one" not in response.text.replace("one that", "")
    assert stranger.get(path.split("?")[0], params={"token": "wrong"}).status_code == 401
    if path != "/":
        assert stranger.get(path.split("?")[0], params={"token": TOKEN}).status_code == 401


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(stranger):
    response = stranger.get("/", params={"token": TOKEN})
    cookie = response.headers["set-cookie"]
    assert cookie == f"expunge-view-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert [stranger.get(path).status_code for path in PATHS] == [200] * len(PATHS)


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", "[::1]:7117", ""]
)
def test_a_rebound_name_is_refused(client, host):
    for path in PATHS:
        assert client.get(path, headers={"Host": host}).status_code == 421
    assert client.get("/", params={"token": TOKEN}, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8888"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_origins_are_refused_even_with_the_cookie(client, headers):
    for path in PATHS:
        assert client.get(path, headers=headers).status_code == 403
    chat = {"run": "one", "question": "?", "roles": ["target"]}
    assert client.post("/api/chat", json=chat, headers=headers).status_code == 403
    assert client.get("/api/runs", headers={"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_no_answer_permits_other_origins(client):
    """Without these headers, a browser shows the answer to no other page."""
    response = client.options("/api/chat", headers={"Origin": ADDRESS, "Access-Control-Request-Method": "POST"})
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/..",
        "/api/runs/%2e%2e",
        "/api/runs/..%2f..%2fetc%2fpasswd",
        "/api/runs/one/samples/..%2f..%2fsummary",
        "/api/runs/one/samples/%2e%2e",
        "/report/..%2fone",
        "/report/%2e%2e",
        "/static/..%2fserver.py",
        "/static/%2e%2e%2fserver.py",
        "/static/index.html",
        "/api/compare?run=one&run=..",
        "/one/summary.json",
    ],
)
def test_no_path_leads_out(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


def test_a_link_out_of_the_folder_is_refused(client, runs, tmp_path):
    (tmp_path / "secret.html").write_text("secret")
    (runs / "one/report.html").symlink_to(tmp_path / "secret.html")
    for path in ("/report/one", "/api/runs/one", "/api/compare?run=one&run=two"):
        response = client.get(path)
        assert response.status_code == 403
        assert "report.html is a link that leads out" in response.json()["error"]
    assert client.get("/report/two").status_code == 200


def test_texts_of_a_model_are_data_and_not_markup(client):
    """They arrive as JSON, which browsers must not take for HTML; the page makes text nodes of them."""
    response = client.get("/api/runs/one/samples/unlearned-tofu-000002")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["rows"][0]["generation"] == "<script>alert(1)</script> \x1b[31mred"


def test_scripts_of_the_page_never_parse_markup():
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\(|srcdoc")
    for name in server._STATIC:
        assert not forbidden.search(server._read(name)), name
    assert not re.search(r"<script>|<style|\son\w+=|style=", server._read("index.html"))


@pytest.mark.parametrize("path", ["/", "/api/runs", "/static/app.js", "/nothing"])
def test_pages_run_their_own_scripts_only(client, path):
    policy = client.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_a_report_is_in_a_sandbox(client, runs):
    (runs / "one/report.html").write_text("<script>fetch('/api/runs')</script>")
    for run in ("one", "two"):  # the file, and a report that is written on request
        policy = client.get(f"/report/{run}").headers["content-security-policy"]
        assert "sandbox allow-scripts;" in policy
        assert "allow-same-origin" not in policy
        assert "default-src 'none'" in policy
        assert "script-src 'sha256-" in policy
        assert "frame-ancestors 'self'" in policy
    assert 'sandbox: "allow-scripts"' in server._read("app.js")


def test_a_report_on_request_escapes_what_a_run_contains(client, runs):
    recipe = runs / "two/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: two", "name: '<script>alert(1)</script>'"))
    page = client.get("/report/two").text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not (runs / "two/report.html").exists()


def test_run_and_list(client, runs):
    assert {row["name"] for row in client.get("/api/runs").json()["runs"]} == {"one", "two"}
    run = client.get("/api/runs/two").json()
    assert run["samples"] == {"unlearned-tofu-000002": 2}
    assert run["progress"]["steps"] == 10
    (runs / "two/train.jsonl").write_text("{}\n{}\n")
    assert "not a training step" in client.get("/api/runs/two").json()["error"]


def test_comparison(client, make_run):
    make_run("three", method="rmu", quality=0.25)
    shown = client.get("/api/compare?run=one&run=three").json()
    assert [run["name"] for run in shown["runs"]] == ["one", "three"]
    (row,) = shown["headlines"]
    assert row["title"] == "forget quality"
    assert [values["unlearned"]["point"] for values in row["values"]] == ["0.500", "0.250"]
    assert row["values"][0]["unlearned"]["interval"] == "[0.100, 0.900]"
    assert row["values"][0]["target"]["note"] == "needs an evaluation of the target"
    assert shown["differences"] == [{"key": "method.name", "values": ["npo", "rmu"]}]
    assert shown["incomparable"] == []
    for names in (["one"], ["one", "one"], [f"r{i}" for i in range(20)]):
        response = client.get("/api/compare", params={"run": names})
        assert (response.status_code, "2 to 12 runs" in response.text) == (422, True)


def test_paging(client):
    path = "/api/runs/one/samples/unlearned-tofu-000002"
    page = client.get(path, params={"q": "bern", "size": 1}).json()
    assert (page["matches"], page["total"], page["rows"][0]["row"]) == (1, 2, 2)
    for bad in ("-1", "x", "١", ""):
        assert client.get(path, params={"start": bad}).status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 422),
        ('{"run": "one"}', 422),
        ('{"run": "one", "question": "?", "roles": ["judge"]}', 422),
        ('{"run": "one", "question": "?", "roles": []}', 422),
        ('{"run": "one", "question": "?", "roles": ["target"], "path": "/etc"}', 422),
        ('{"run": "../one", "question": "?", "roles": ["target"]}', 404),
        ('{"run": "one", "question": "?", "roles": ["target"]}', 422),  # it has no checkpoint
    ],
)
def test_mistakes_in_a_chat(client, body, status):
    # Twice: a refused prompt does not block the next one.
    for _ in range(2):
        response = client.post("/api/chat", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == status
        assert json.loads(response.text)["error"]


def test_a_chat_is_a_post_of_json(client):
    body = '{"run": "one", "question": "?", "roles": ["target"]}'
    assert client.get("/api/chat").status_code == 405
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert client.post("/api/chat", content=body, headers={"Content-Type": kind}).status_code == 415
    client.cookies.clear()
    assert client.post("/api/chat", json=json.loads(body)).status_code == 401


def test_torch_is_not_imported_before_a_chat(runs):
    code = (
        "import sys, pathlib; from starlette.testclient import TestClient;"
        "from expunge.view.server import make_app, RunFolder;"
        f"client = TestClient(make_app(RunFolder(pathlib.Path(sys.argv[1])), {PORT}, 't'), base_url='{ADDRESS}');"
        "client.get('/?token=t');"
        f"assert all(client.get(path).status_code == 200 for path in {PATHS});"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
