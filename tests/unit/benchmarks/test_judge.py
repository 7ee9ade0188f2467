"""The judge on a real local service that answers, fails, limits, hangs or writes rubbish, and on a local model."""

import time
from types import SimpleNamespace

import pytest
from judge_server import JudgeServer
from pydantic import ValidationError

from expunge.benchmarks.mt_bench.judge import Judge, _takes_system, judge_replies
from expunge.config.recipe import Prompt, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import DataError, UserError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.probes.cache import ProbeCache
from expunge.probes.session import Session
from expunge.services.chat import ChatService, ReplyError, ReplyFile, with_retries


@pytest.fixture
def serve():
    servers = []

    def start(behave):
        servers.append(JudgeServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ask(tmp_path):
    """`ask(server, n, **settings)`: replies to the prompts 'number 0' to 'number n-1'."""

    def run(server, n=6, **settings):
        defaults = {"store": str(tmp_path / "kept"), "backoff_seconds": 0.0, "timeout_seconds": 5.0}
        judge = Judge(model="a-judge", url=server.url, **{**defaults, **settings})
        prompts = [
            [{"role": "system", "content": "Be fair."}, {"role": "user", "content": f"number {i}"}] for i in range(n)
        ]
        return judge_replies(judge, prompts, None)

    return run


def echo(_, text):
    return f"about {text.rsplit(' ', 1)[1]}"


ALL = [f"about {i}" for i in range(6)]


def test_each_prompt_gets_its_reply_once(serve, ask, tmp_path, monkeypatch, capsys):
    """Replies come in the order of the prompts, and equal prompts are asked once; the key goes into the header and
    nowhere else; the second time nothing is asked, and no key is needed."""
    monkeypatch.setenv("A_KEY", "secret-7")
    server = serve(echo)
    assert ask(server, api_key_env="A_KEY", temperature=0.5, max_tokens=77) == ALL
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-7"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("a-judge", 0.5, 77)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    (kept,) = (tmp_path / "kept").iterdir()
    captured = capsys.readouterr()
    assert "secret-7" not in kept.read_text() + captured.err + captured.out
    monkeypatch.delenv("A_KEY")
    assert ask(server, api_key_env="A_KEY", temperature=0.5, max_tokens=77) == ALL
    assert len(server.requests) == 6


def test_what_it_will_cost_is_said_first(serve, ask, capsys):
    """6 prompts of 8 + 8 characters are 96 characters, 24 tokens; 6 replies of at most 10 tokens are 60."""
    said = []
    server = serve(lambda n, text: said.append(capsys.readouterr().err) or "fine")
    ask(server, max_tokens=10, parallel=1)
    assert "6 calls, about 24 prompt tokens (4 characters each) and at most 60 completion tokens" in said[0]
    assert "counted 600 prompt tokens and 60 completion tokens" in capsys.readouterr().err


def test_half_of_all_requests_fail(serve, ask):
    server = serve(lambda n, text: 500 if n % 2 else echo(n, text))
    assert ask(server, parallel=1) == ALL
    assert len(server.requests) == 12


def test_a_rate_limit_is_waited_for(serve, ask):
    """The service asks for 0.3 seconds, longer than the backoff of 0."""
    server = serve(lambda n, text: (429, 0.3) if n == 1 else echo(n, text))
    started = time.monotonic()
    assert ask(server, 1) == ["about 0"]
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(("wait", "tries"), [("Fri, 01 Jan 2100 00:00:00 GMT", 2), (3600, 1)])
def test_a_wait_in_other_words_is_not_understood_and_a_very_long_one_not_made(serve, wait, tries):
    server = serve(lambda n, text: (429, wait))
    service = ChatService(server.url, "m", timeout_seconds=5.0)
    with pytest.raises(ReplyError, match="HTTP status 429"):
        with_retries(lambda: service.ask([{"role": "user", "content": "?"}]), 2, 0.0)
    assert len(server.requests) == tries


@pytest.mark.parametrize("broken", [0.5, 503, b"<html>", b"{}", b"[1]"])
def test_a_service_that_breaks_down_loses_nothing(serve, ask, broken):
    """It answers two prompts and then hangs, fails or writes rubbish; mended, it is asked for the other four."""
    server = serve(lambda n, text: echo(n, text) if n <= 2 else broken)
    with pytest.raises(UserError, match=r"no usable reply in 2 attempts.* saved in .*resumes from there"):
        ask(server, parallel=1, attempts=2, timeout_seconds=0.1)
    server.behave, before = echo, len(server.requests)
    assert ask(server, parallel=1, attempts=2, timeout_seconds=0.1) == ALL
    assert len(server.requests) - before == 4


def test_a_half_written_line_is_asked_again(serve, ask, tmp_path):
    server = serve(echo)
    ask(server)
    (kept,) = (tmp_path / "kept").iterdir()
    lines = kept.read_text()
    kept.write_text(lines[:-3])
    assert ask(server) == ALL
    assert len(server.requests) == 7
    assert len(list(ReplyFile(kept))) == 6


def test_a_reply_without_text_is_an_empty_one(serve, ask):
    assert ask(serve(lambda n, text: None), 1) == [""]


def test_a_refusal_for_good_is_not_tried_again(serve, ask):
    server = serve(lambda n, text: 401)
    with pytest.raises(UserError, match="HTTP status 401"):
        ask(server, parallel=1)
    assert len(server.requests) == 1


def test_other_settings_are_other_judgments(serve, ask):
    server = serve(echo)
    for settings in ({}, {"temperature": 0.5}, {"max_tokens": 5}, {"parallel": 2}):
        ask(server, 1, **settings)
    assert len(server.requests) == 3


def test_a_missing_key_or_address_is_named_before_anything_is_sent(serve, ask, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    server = serve(echo)
    with pytest.raises(UserError, match="A_KEY is not set"):
        ask(server, api_key_env="A_KEY")
    assert server.requests == []
    with pytest.raises(UserError, match="'localhost:8000' is not the address"):
        ask(SimpleNamespace(url="localhost:8000"))


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "m", "api_key_env": "K"},
        {"model": "m", "parallel": 2},
        {"model": "m", "url": "http://x/v1", "dtype": "bfloat16"},
        {"model": "m", "url": "http://x/v1", "revision": "main"},
        {"url": "http://x/v1"},
        {"model": "m", "attempts": 0},
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        Judge(**settings)


@pytest.fixture
def local(tmp_path):
    """A session with a tiny model, and a folder with another one as judge."""
    tokenizer = train_tokenizer(["Be fair. number 0 number 1 Question: Answer:"] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    folder = tmp_path / "judge"
    build_scratch(scratch, tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sets = Sets("", RowSet("forget", ()), None)
    model = build_scratch(scratch, tokenizer, seed=0)
    return Session(model, sets, Template(tokenizer, Prompt(), 64), 4096, ProbeCache(None, []), "it"), folder, scratch


def test_a_local_judge(local, tmp_path):
    """Its replies are kept; a prompt that does not fit has none; other weights judge anew."""
    session, folder, scratch = local
    judge = Judge(model=str(folder), store=str(tmp_path / "kept"), max_tokens=6)
    prompts = [
        [{"role": "system", "content": "Be fair."}, {"role": "user", "content": text}]
        for text in ("number 0", "number 1", "number 1 " * 90)
    ]
    replies = judge_replies(judge, prompts, session)
    assert replies[2] is None
    assert None not in replies[:2]
    (kept,) = (tmp_path / "kept").iterdir()
    assert [entry["reply"] for entry in ReplyFile(kept)] == replies[:2]
    before = kept.read_text()
    assert judge_replies(judge, prompts, session) == replies
    assert kept.read_text() == before
    build_scratch(scratch, session.tokenizer, seed=2).save_pretrained(folder)
    judge_replies(judge, prompts, session)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    with pytest.raises(DataError, match="does not exist"):
        judge_replies(Judge(model=str(folder / "x"), store=str(tmp_path)), prompts, session)


def test_a_system_text_that_a_template_drops_or_refuses_goes_before_the_question(local):
    tokenizer = local[0].tokenizer
    assert not _takes_system(tokenizer, "Be fair.")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert _takes_system(tokenizer, "Be fair.")
    tokenizer.chat_template = "{{ raise_exception('no system') }}"
    assert not _takes_system(tokenizer, "Be fair.")
    tokenizer.chat_template = None
    assert not _takes_system(tokenizer, "Be fair.")
