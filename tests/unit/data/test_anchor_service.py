"""Anchors from a language model, tried on a real local server that answers, fails, writes rubbish or hangs."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expunge.data.anchors.llm import ReplyError, chat_service, collect_anchors, parse_reply
from expunge.data.text import split
from expunge.errors import DataError, UserError

TEXT = "Zorblatt came to Quem. Mira waited there for Zorblatt until the evening had come and gone."


class Server:
    """A service whose n-th answer is decided by a function: a reply, a status code, or seconds to hang."""

    def __init__(self, behave):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                what = behave(len(outer.requests))
                if isinstance(what, float):
                    time.sleep(what)
                    return
                self.send_response(what if isinstance(what, int) else 200)
                self.end_headers()
                if isinstance(what, bytes):
                    self.wfile.write(what)
                elif isinstance(what, str):
                    self.wfile.write(json.dumps({"choices": [{"message": {"content": what}}]}).encode())

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(behave):
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for each in servers:
        each.server.shutdown()
        each.server.server_close()


GOOD = 'Sure! {"Zorblatt": ["Thomas", "Walter"], "Quem": "Milton"}'


def collect(server, place, text=TEXT, **settings):
    ask = chat_service(server.url, "a-model", timeout_seconds=settings.pop("timeout", 5.0))
    return collect_anchors([text], ask, place, backoff_seconds=0.0, **settings)


def test_a_good_service_is_asked_once_per_passage(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-7")
    server = serve(lambda n: GOOD)
    ask = chat_service(server.url + "/", "a-model", api_key_env="A_KEY")
    place = tmp_path / "replies.jsonl"
    assert collect_anchors([TEXT], ask, place) == {"Zorblatt": ["Thomas", "Walter"], "Quem": ["Milton"]}
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-7"
    assert body["model"] == "a-model"
    assert body["messages"][0]["content"].endswith(TEXT)
    assert "secret-7" not in place.read_text()
    collect_anchors([TEXT], ask, place)
    assert len(server.requests) == 1, "a passage that has a reply is not sent again"


def test_every_second_answer_fails(serve, tmp_path):
    """Odd requests get status 500, so each of the passages needs two."""
    server = serve(lambda n: 500 if n % 2 else GOOD)
    assert collect(server, tmp_path / "r.jsonl", chunk_characters=50)["Quem"] == ["Milton"]
    assert len(server.requests) == 4


@pytest.mark.parametrize("rubbish", ["no braces at all", '{"Zorblatt": ', b"<html>not JSON</html>", b"{}", b"[1]"])
def test_rubbish_ends_in_an_error_that_says_what_came(serve, tmp_path, rubbish):
    server = serve(lambda n: rubbish)
    with pytest.raises(DataError, match="passage 1 of 1 got no usable reply in 3 attempts"):
        collect(server, tmp_path / "r.jsonl", attempts=3)
    assert len(server.requests) == 3


def test_a_service_that_hangs_is_given_up(serve, tmp_path):
    server = serve(lambda n: 0.5)
    with pytest.raises(DataError, match="no usable reply in 2 attempts"):
        collect(server, tmp_path / "r.jsonl", attempts=2, timeout=0.1)


def test_nothing_listens(tmp_path):
    ask = chat_service("http://127.0.0.1:9/v1", "m", timeout_seconds=1.0)
    with pytest.raises(DataError, match="no usable reply"):
        collect_anchors([TEXT], ask, tmp_path / "r.jsonl", attempts=2, backoff_seconds=0.0)


def test_earlier_replies_outlive_a_failure(serve, tmp_path):
    """The first passage is answered, the second never; a second try with a mended service sends only the second."""
    place = tmp_path / "r.jsonl"
    broken = serve(lambda n: GOOD if n == 1 else 503)
    with pytest.raises(DataError, match=r"passage 2 of 2 .* kept in"):
        collect(broken, place, chunk_characters=50, attempts=2)
    mended = serve(lambda n: '{"evening": ["morning"]}')
    found = collect(mended, place, chunk_characters=50)
    assert len(mended.requests) == 1
    assert found == {"Zorblatt": ["Thomas", "Walter"], "Quem": ["Milton"], "evening": ["morning"]}


def test_a_half_written_line_is_asked_again(serve, tmp_path):
    place = tmp_path / "r.jsonl"
    place.write_text('\n{"chunk": "abc", "anch')
    assert collect(serve(lambda n: GOOD), place)["Quem"] == ["Milton"]


def test_a_refusal_for_good_is_not_tried_again(serve, tmp_path):
    server = serve(lambda n: 401)
    with pytest.raises(UserError, match="HTTP status 401"):
        collect(server, tmp_path / "r.jsonl")
    assert len(server.requests) == 1


def test_a_missing_key_is_named_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(UserError, match="A_KEY is not set"):
        chat_service("http://127.0.0.1:9/v1", "m", api_key_env="A_KEY")


def test_no_anchor_anywhere(serve, tmp_path):
    with pytest.raises(DataError, match="no reply named an anchor"):
        collect(serve(lambda n: "{}"), tmp_path / "r.jsonl")


def test_unusable_entries_of_a_reply_are_left_out():
    """Kept: a stand-in that can be used. Left out: one for itself, one that is no text, one not in the passage."""
    reply = '{"Zorblatt": "Thomas", "Quem": "Quem", "Mira": [1], "Oz": "Milton"}'
    assert parse_reply(reply, TEXT) == {"Zorblatt": ["Thomas"]}
    with pytest.raises(ReplyError):
        parse_reply("[]", TEXT)


def test_pieces_cover_the_text_and_are_cut_at_spaces():
    pieces = list(split(TEXT, 20))
    assert "".join(pieces) == TEXT
    assert all(len(piece) <= 20 for piece in pieces)
    assert all(piece.startswith(" ") for piece in pieces[1:])
    assert list(split("x" * 45, 20)) == ["x" * 20, "x" * 20, "x" * 5]
    assert list(split("  ", 20)) == []
