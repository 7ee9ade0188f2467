"""`expunge push`: the files that are uploaded, the requests to the hub, and what is refused."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest


class Hub(BaseHTTPRequestHandler):
    """Answers the requests of one commit, and keeps them."""

    requests: ClassVar[list] = []
    refuse = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).requests.append((self.path, self.headers.get("Authorization"), body))
        if type(self).refuse:
            return self._answer({"error": "no write access"}, 403)
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return self._answer(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]}
            )
        address = "https://huggingface.co/jane/mine/commit/0123456789012345678901234567890123456789"
        answer = {
            "commitUrl": address,
            "commitOid": "0" * 40,
            "success": True,
            "url": "https://huggingface.co/jane/mine",
        }
        return self._answer(answer)

    def do_GET(self):
        self._answer({"error": "no access"}, 403 if type(self).refuse else 200)

    def _answer(self, value, status=200):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    Hub.requests, Hub.refuse = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    yield Hub
    server.shutdown()


@pytest.fixture
def finished(cli, recipe_file):
    done = cli("run", recipe_file, "--json")
    assert done.code == 0, done.err
    return recipe_file.parent / json.loads(done.out)["folder"]


def test_push(cli, finished, hub, monkeypatch):
    listed = cli("push", finished, "jane/mine")
    assert listed.code == 0, listed.err
    assert "Nothing was uploaded" in listed.out
    assert hub.requests == []
    offline = cli("push", finished, "jane/mine", "--yes")
    assert (offline.code, hub.requests) == (2, [])
    assert "HF_HUB_OFFLINE" in offline.err

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    done = cli("push", finished, "jane/mine", "--yes", "--license", "mit")
    assert done.code == 0, done.err
    assert "/jane/mine/commit/" in done.out
    created = next(json.loads(body) for path, _, body in hub.requests if path.endswith("/repos/create"))
    assert created.get("visibility", "private" if created.get("private") else "") == "private"
    assert {token for _, token, _ in hub.requests} == {"Bearer hf_planted"}
    lines = next(body for path, _, body in hub.requests if path.endswith("/commit/main")).splitlines()
    sent = {
        entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
        for entry in map(json.loads, lines)
        if entry["key"] == "file"
    }
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "report.html"} <= set(sent)
    assert sent["model.safetensors"] == (finished / "checkpoint/model.safetensors").read_bytes()
    assert b"license: mit" in sent["README.md"]
    assert not any(b"hf_planted" in content for content in sent.values())

    hub.refuse = True
    refused = cli("push", finished, "jane/mine", "--yes")
    assert refused.code == 2
    assert "refused the upload" in refused.err


def test_bad_input(cli, recipe_file):
    assert "OWNER/NAME" in cli("push", recipe_file.parent, "mine").err
    done = cli("push", recipe_file.parent, "jane/mine")
    assert done.code == 2
    assert "is not a run" in done.err.replace("\n", " ")
