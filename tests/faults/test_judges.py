"""Judges behind HTTP that answer slowly, wrongly, hugely, in circles or never."""

import json
import socket
import threading
import time

import pytest

from expunge.errors import UserError
from expunge.services.chat import ChatService, ReplyError, ReplyFile

KEY = "sk-planted-7f3a91"
SECONDS = 1.0
GOOD = json.dumps({"choices": [{"message": {"content": "fine"}}]}).encode()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Server:
    """A server on a socket that sends given bytes, in pieces, whatever it is asked."""

    def __init__(self, pieces, wait=0.0):
        self._pieces, self._wait, self._stopped = pieces, wait, threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self.received = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while not self._stopped.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection):
        try:
            with connection:
                self.received.append(connection.recv(65536))
                for piece in self._pieces(self.url):
                    connection.sendall(piece)
                    if self._wait and self._stopped.wait(self._wait):
                        return
        except OSError:
            pass

    def close(self):
        self._stopped.set()
        self._socket.close()


@pytest.fixture
def serve(request):
    def start(pieces, wait=0.0):
        server = Server(pieces, wait)
        request.addfinalizer(server.close)
        return server

    return start


def message(content) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def endless(start: bytes, piece: bytes):
    def pieces(url):
        yield start
        while True:
            yield piece

    return pieces


def once(content: bytes):
    return lambda url: [content]


HEAD = b"HTTP/1.1 200 OK\r\n"
WRONG = {
    "nothing": once(b""),
    "no HTTP": once(b"hello\r\n"),
    "binary": once(bytes(range(256))),
    "half of a status": once(b"HTTP/1.1 20"),
    "status that is a word": once(b"HTTP/1.1 OK fine\r\n\r\n"),
    "long status": once(b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n"),
    "long header": once(HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n"),
    "many headers": once(HEAD + b"X: x\r\n" * 1000 + b"\r\n"),
    "short body": once(HEAD + b"Content-Length: 1000\r\n\r\n{"),
    "length that is a word": once(HEAD + b"Content-Length: many\r\n\r\n{"),
    "broken chunks": once(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{"),
    "empty body": once(answer(b"")),
    "HTML": once(answer(b"<html>Welcome to the hotel network</html>")),
    "gzip": once(answer(b"\x1f\x8b\x08" + bytes(50))),
    "Latin-1": once(answer('{"choices": "ü"}'.encode("latin-1"))),
    "null": once(answer(b"null")),
    "number": once(answer(b"3")),
    "word": once(answer(b'"fine"')),
    "list": once(answer(b"[]")),
    "empty object": once(answer(b"{}")),
    "error in a good status": once(answer(b'{"error": {"message": "no"}}')),
    "no choices": once(answer(b'{"choices": []}')),
    "null choices": once(answer(b'{"choices": null}')),
    "choices of words": once(answer(b'{"choices": ["fine"]}')),
    "no message": once(answer(b'{"choices": [{}]}')),
    "null message": once(answer(b'{"choices": [{"message": null}]}')),
    "message without content": once(answer(b'{"choices": [{"message": {}}]}')),
    "deep JSON": once(answer(b'{"choices":' + b"[" * 200_000)),
    "huge number": once(answer(GOOD[:-1] + b', "usage": {"prompt_tokens": 1e999}}')),
    "number of 5,000 digits": once(answer(GOOD[:-1] + b', "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}")),
    "usage of words": once(answer(GOOD[:-1] + b', "usage": {"prompt_tokens": "many"}}')),
    "usage that is a list": once(answer(GOOD[:-1] + b', "usage": [1]}')),
    "status 500": once(answer(b"", "500 Oops")),
    "status 429": once(answer(b"", "429 Slow down", "Retry-After: 1")),
    "wait of infinity": once(answer(b"", "429 Slow down", "Retry-After: inf")),
    "wait that is NaN": once(answer(b"", "429 Slow down", "Retry-After: nan")),
    "huge body": endless(HEAD + b"\r\n", b"x" * (1 << 20)),
    "huge body of a stated size": endless(HEAD + b"Content-Length: 99999999999\r\n\r\n", b"x" * (1 << 20)),
}

REFUSED = {
    "status 400": once(answer(b"", "400 Bad")),
    "status 401": once(answer(b"", "401 Unauthorized")),
    "status 404": once(answer(b"", "404 Not Found")),
    "reason with codes": once(answer(b"", "403 \x1b[31mred")),
    "redirect to itself": lambda url: [answer(b"", "302 Found", f"Location: {url}/chat/completions")],
    "redirects without end": lambda url: [answer(b"", "302 Found", f"Location: {url}/{time.monotonic_ns()}")],
    "redirect of a POST": lambda url: [answer(b"", "308 Moved", f"Location: {url}/x")],
    "redirect to a file": lambda url: [answer(b"", "302 Found", "Location: file:///etc/passwd")],
    "redirect to nowhere": lambda url: [answer(b"", "302 Found")],
}

SLOW = {
    "never": endless(b"", b""),
    "status byte by byte": endless(b"HTTP/1.1 200 ", b"x"),
    "headers byte by byte": endless(HEAD + b"X: ", b"x"),
    "body byte by byte": endless(HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    "chunks byte by byte": endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "body without length": endless(HEAD + b"\r\n", b" "),
}


def ask(url, seconds=5.0):
    return ChatService(url, "judge", timeout_seconds=seconds).ask([{"role": "user", "content": "?"}])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answer_may_be_retried(name, serve):
    with pytest.raises(ReplyError) as caught:
        ask(serve(WRONG[name]).url)
    assert 0 < len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_is_final(name, serve):
    server = serve(REFUSED[name])
    with pytest.raises(UserError, match="rejects the request"):
        ask(server.url)


@pytest.mark.parametrize("name", SLOW)
def test_time_of_a_reply_is_limited_as_a_total(name, serve):
    started = time.monotonic()
    with pytest.raises(ReplyError, match=r"[Tt]ime"):
        ask(serve(SLOW[name], wait=0.05).url, SECONDS)
    assert time.monotonic() - started < 8 * SECONDS


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(ReplyError, match="refused"):
        ask(url)


TEXTS = ["", "\x1b[31mred", "a\x00b", "👩‍👩‍👧", "\u202eabc", "<script>", "x" * 1_000_000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_unusual_text_is_kept(text, serve, tmp_path):
    reply = ask(serve(once(answer(message(text)))).url)
    assert reply.text == text
    file = ReplyFile(tmp_path / "replies.jsonl")
    file.add({"prompt": "a", "reply": reply.text})
    assert [entry["reply"] for entry in file] == [text]


def test_half_of_a_character_can_be_stored(serve, tmp_path):
    reply = ask(serve(once(answer(b'{"choices": [{"message": {"content": "a\\ud83d"}}]}'))).url)
    file = ReplyFile(tmp_path / "replies.jsonl")
    file.add({"reply": reply.text})
    assert [entry["reply"] for entry in file] == ["a?"]


ADDRESSES = ["", "localhost:8000", "file:///etc/passwd", "ftp://host/v1", "javascript:alert(1)", "//host/v1"]


@pytest.mark.parametrize("url", ADDRESSES)
def test_address_of_another_scheme(url):
    with pytest.raises(UserError, match="address"):
        ChatService(url, "judge")


def test_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(UserError, match="password") as caught:
        ChatService(f"http://user:{KEY}@localhost/v1", "judge")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http://host:port/v1", "http:///v1", "http://a b/v1", "http://\x00/v1"]
)
def test_malformed_address(url):
    with pytest.raises((ReplyError, UserError)):
        ask(url, SECONDS)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-Evil: 1", f"{KEY}\x00", f"{KEY}é", f"\x1b[31m{KEY}"])
def test_key_with_other_characters_is_refused_and_not_repeated(key, monkeypatch):
    if "\x00" in key:
        monkeypatch.setattr("os.environ", {"PLANTED": key})
    else:
        monkeypatch.setenv("PLANTED", key)
    with pytest.raises(UserError, match="PLANTED") as caught:
        ChatService("http://localhost/v1", "judge", "PLANTED")
    assert KEY not in str(caught.value)


def test_key_is_not_sent_to_the_target_of_a_redirect(serve, monkeypatch):
    monkeypatch.setenv("PLANTED", KEY)
    other = serve(once(answer(GOOD)))
    first = serve(lambda url: [answer(b"", "302 Found", f"Location: {other.url}/x")])
    ChatService(first.url, "judge", "PLANTED").ask([{"role": "user", "content": "?"}])
    assert KEY.encode() in first.received[0]
    assert KEY.encode() not in other.received[0]
