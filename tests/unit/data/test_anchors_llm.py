"""Anchors from a language model, with a local server that answers, fails, returns invalid replies or hangs."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import regex

from expunge.data.anchors.llm import collect_anchors, parse_reply
from expunge.data.text import split_text
from expunge.errors import DataError, UserError
from expunge.services.chat import ReplyError, chat_service

TEXT = "Zorblatt came to Quem. Mira waited there for Zorblatt until the evening had come and gone."


class Server:
    """A service whose n-th response is returned by a function: a reply, a status code, or seconds to hang."""

    def __init__(self, respond):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                response = respond(len(outer.requests))
                if isinstance(response, float):
                    time.sleep(response)
                    return
                self.send_response(response if isinstance(response, int) else 200)
                self.end_headers()
                if isinstance(response, bytes):
                    self.wfile.write(response)
                elif isinstance(response, str):
                    self.wfile.write(json.dumps({"choices": [{"message": {"content": response}}]}).encode())

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(respond):
        servers.append(Server(respond))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


GOOD = 'Sure! {"Zorblatt": ["Thomas", "Walter"], "Quem": "Milton"}'


def collect(server, path, text=TEXT, **settings):
    ask = chat_service(server.url, "a-model", timeout_seconds=settings.pop("timeout", 5.0))
    return collect_anchors([text], ask, path, backoff_seconds=0.0, **settings)


def test_each_passage_is_sent_once(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-7")
    server = serve(lambda n: GOOD)
    ask = chat_service(server.url + "/", "a-model", api_key_env="A_KEY")
    file = tmp_path / "replies.jsonl"
    assert collect_anchors([TEXT], ask, file) == {"Zorblatt": ["Thomas", "Walter"], "Quem": ["Milton"]}
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-7"
    assert body["model"] == "a-model"
    assert body["messages"][0]["content"].endswith(TEXT)
    assert "secret-7" not in file.read_text()
    collect_anchors([TEXT], ask, file)
    assert len(server.requests) == 1, "a passage with a saved reply is not sent again"


def test_failed_requests_are_repeated(serve, tmp_path):
    """Odd requests get status 500, so each of the two passages needs two requests."""
    server = serve(lambda n: 500 if n % 2 else GOOD)
    assert collect(server, tmp_path / "r.jsonl", chunk_characters=50)["Quem"] == ["Milton"]
    assert len(server.requests) == 4


@pytest.mark.parametrize("reply", ["no braces at all", '{"Zorblatt": ', b"<html>not JSON</html>", b"{}", b"[1]"])
def test_invalid_replies_raise(serve, tmp_path, reply):
    server = serve(lambda n: reply)
    with pytest.raises(DataError, match="passage 1 of 1 got no usable reply in 3 attempts"):
        collect(server, tmp_path / "r.jsonl", attempts=3)
    assert len(server.requests) == 3


def test_service_that_hangs_raises(serve, tmp_path):
    server = serve(lambda n: 0.5)
    with pytest.raises(DataError, match="no usable reply in 2 attempts"):
        collect(server, tmp_path / "r.jsonl", attempts=2, timeout=0.1)


def test_unreachable_service_raises(tmp_path):
    ask = chat_service("http://127.0.0.1:9/v1", "m", timeout_seconds=1.0)
    with pytest.raises(DataError, match="no usable reply"):
        collect_anchors([TEXT], ask, tmp_path / "r.jsonl", attempts=2, backoff_seconds=0.0)


def test_failed_collection_resumes(serve, tmp_path):
    """Only the first passage gets a reply; a second collection with a working service sends only the second one."""
    path = tmp_path / "r.jsonl"
    broken = serve(lambda n: GOOD if n == 1 else 503)
    with pytest.raises(DataError, match=r"passage 2 of 2 .* saved in"):
        collect(broken, path, chunk_characters=50, attempts=2)
    working = serve(lambda n: '{"evening": ["morning"]}')
    anchors = collect(working, path, chunk_characters=50)
    assert len(working.requests) == 1
    assert anchors == {"Zorblatt": ["Thomas", "Walter"], "Quem": ["Milton"], "evening": ["morning"]}


def test_incomplete_line_is_ignored(serve, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('\n{"chunk": "abc", "anch')
    assert collect(serve(lambda n: GOOD), path)["Quem"] == ["Milton"]


def test_rejected_request_is_not_repeated(serve, tmp_path):
    server = serve(lambda n: 401)
    with pytest.raises(UserError, match="HTTP status 401"):
        collect(server, tmp_path / "r.jsonl")
    assert len(server.requests) == 1


def test_missing_key_raises_before_any_request(monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(UserError, match="A_KEY is not set"):
        chat_service("http://127.0.0.1:9/v1", "m", api_key_env="A_KEY")


def test_replies_without_anchors_raise(serve, tmp_path):
    with pytest.raises(DataError, match="no reply contains an anchor"):
        collect(serve(lambda n: "{}"), tmp_path / "r.jsonl")


def test_unusable_entries_of_a_reply_are_ignored():
    """A key that is its own stand-in, a stand-in that is no string, and a key that is not in the passage."""
    reply = '{"Zorblatt": "Thomas", "Quem": "Quem", "Mira": [1], "Oz": "Milton"}'
    assert parse_reply(reply, TEXT) == {"Zorblatt": ["Thomas"]}
    with pytest.raises(ReplyError):
        parse_reply("[]", TEXT)


def test_split_text_cuts_at_spaces():
    pieces = list(split_text(TEXT, 20))
    assert "".join(pieces) == TEXT
    assert all(len(piece) <= 20 for piece in pieces)
    assert all(piece.startswith(" ") for piece in pieces[1:])
    assert list(split_text("x" * 45, 20)) == ["x" * 20, "x" * 20, "x" * 5]
    assert list(split_text("  ", 20)) == []


def test_split_text_never_cuts_inside_a_character():
    """A Thai or Hindi letter keeps its vowel sign, a letter its accent, and a joined emoji its parts."""
    for text in ("ที่นี่" * 9, "हिन्दीभाषा" * 9, "e\u0301o\u0302" * 9, "👩\u200d🚀👍🏽" * 9):
        for size in (5, 6, 7, 8):
            pieces = list(split_text(text, size))
            assert "".join(pieces) == text
            assert all(0 < len(piece) <= size for piece in pieces)
            assert [c for piece in pieces for c in regex.findall(r"\X", piece)] == regex.findall(r"\X", text)
