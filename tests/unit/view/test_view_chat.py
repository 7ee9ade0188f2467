"""The chat with the models of a run: streamed answers, probabilities, and what it does not do."""

import asyncio
import json
import math
import threading

import pytest
import torch
import yaml
from starlette.testclient import TestClient

from expunge.config.recipe import Prompt, Scratch
from expunge.data.templates import Template
from expunge.errors import UserError
from expunge.modeling.load import build_scratch, load_model, load_tokenizer, train_tokenizer
from expunge.records import Manifest
from expunge.rundir import write_record
from expunge.view.chat import Chat
from expunge.view.folder import RunFolder
from expunge.view.request import ChatRequest
from expunge.view.server import make_app

QUESTION, ANSWER = "Where was she born?", "In Bern."


def save_model(folder, seed):
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 128)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
    build_scratch(scratch, tokenizer, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def chat_run(make_run):
    """A run with the checkpoint of an unlearned model and a target, which it trained, and no retain model."""
    folder = make_run("one")
    save_model(folder / "checkpoint", seed=0)
    save_model(folder.parent / "shared/model-1/model", seed=1)
    change_recipe(folder, model={"name": "org/base"}, prompt={"style": "chat"})
    # The path as seen from where the run was started.
    models = {"target": "elsewhere/runs/shared/model-1/model", "retain": "retain.json"}
    write_record(
        folder / "manifest.json", Manifest(recipe="one", fingerprint="f", created="now", expunge="0", models=models)
    )
    return folder


def change_recipe(folder, **sections):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))


def ask(chat, **settings):
    """Return the events of a prompt by role."""
    request = ChatRequest(**{"run": "one", "question": QUESTION, "roles": ["unlearned"], **settings})

    async def collect():
        return [json.loads(line) async for line in chat.start(request)]

    events = {}
    for event in asyncio.run(collect()):
        events.setdefault(event.pop("role"), []).append(event)
    return events


def expected(folder, budget):
    """Return text and log-probability of the true answer, by one forward pass per token without our generation."""
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), config=_model_config()).eval()
    template = Template(tokenizer, Prompt(style="chat"), 128)
    ids = template.prompt_ids(QUESTION)
    tokens = []
    with torch.no_grad():
        while len(tokens) < budget:
            token = int(model(torch.tensor([[*ids, *tokens]])).logits[0, -1].argmax())
            if token in template.end_ids:
                break
            tokens.append(token)
        row = template.encode(QUESTION, ANSWER)
        logp = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    logps = [float(logp[i - 1, row.ids[i]]) for i in range(row.answer_start, len(row.ids))]
    return template.decode(tokens), logps


def _model_config():
    from expunge.config.recipe import Model

    return Model(name="x")


def test_answers_and_probabilities_equal_a_plain_loop(chat_run):
    events = ask(Chat(RunFolder(chat_run.parent)), roles=["target", "unlearned"], answer=ANSWER, max_new_tokens=8)
    folders = {"target": chat_run.parent / "shared/model-1/model", "unlearned": chat_run / "checkpoint"}
    for role, folder in folders.items():
        text, logps = expected(folder, 8)
        last = events[role][-1]
        assert (last["text"], last["done"]) == (text, True)
        (scored,) = [event for event in events[role] if "log_probability" in event]
        assert scored["log_probability"] == pytest.approx(sum(logps), abs=1e-4)
        assert scored["probability_per_token"] == pytest.approx(math.exp(sum(logps) / len(logps)), rel=1e-4)
        assert scored["answer_tokens"] == len(logps)
    assert events["target"][-1]["text"] != events["unlearned"][-1]["text"]


def test_text_is_streamed_token_by_token(chat_run):
    events = ask(Chat(RunFolder(chat_run.parent)), max_new_tokens=6)["unlearned"]
    assert [event["state"] for event in events if "state" in event] == ["loading the model", "answering"]
    texts = [event["text"] for event in events if "text" in event]
    assert len(texts) == 7  # one per token, and the complete answer
    assert events[-1]["cut"]


def test_models_stay_loaded_until_the_run_changes(chat_run):
    chat = Chat(RunFolder(chat_run.parent))

    def states():
        return [event.get("state") for event in ask(chat, max_new_tokens=1)["unlearned"]]

    assert "loading the model" in states()
    assert "loading the model" not in states()
    (chat_run / "stages/extra.json").write_text((chat_run / "stages/prepare.json").read_text())
    assert "loading the model" in states()


def test_sampling_depends_on_the_seed_only(chat_run):
    chat = Chat(RunFolder(chat_run.parent))
    texts = [ask(chat, temperature=1.5, seed=seed)["unlearned"][-1]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_model_that_cannot_answer_does_not_stop_the_others(chat_run):
    events = ask(Chat(RunFolder(chat_run.parent)), roles=["retain", "unlearned"], max_new_tokens=1)
    assert "is a stored evaluation, not a model" in events["retain"][0]["error"]
    assert events["unlearned"][-1]["done"]


def test_a_prompt_longer_than_the_context_is_an_error(chat_run):
    (event,) = [e for e in ask(Chat(RunFolder(chat_run.parent)), question="x " * 200)["unlearned"] if "error" in e]
    assert "fills the model's context" in event["error"]


def test_an_unexpected_failure_is_reported_and_the_next_prompt_works(chat_run, monkeypatch, capsys):
    from expunge.view import models

    chat = Chat(RunFolder(chat_run.parent))
    with monkeypatch.context() as patch:
        patch.setattr(models, "generate_by", lambda *args, **settings: 1 / 0)
        assert "ZeroDivisionError" in ask(chat)["unlearned"][-1]["error"]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert ask(chat, max_new_tokens=1)["unlearned"][-1]["done"]


def test_remote_code_and_python_files_of_a_recipe_do_not_run(chat_run, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change_recipe(chat_run, method={"name": str(evil)}, evaluate={"benchmarks": [str(evil)], "metrics": [str(evil)]})
    assert ask(Chat(RunFolder(chat_run.parent)), max_new_tokens=1)["unlearned"][-1]["done"]
    assert not (tmp_path / "ran").exists()
    change_recipe(chat_run, model={"name": "org/base", "trust_remote_code": True})
    with pytest.raises(UserError, match="need code from their repositories"):
        ask(Chat(RunFolder(chat_run.parent)))


def test_a_checkpoint_outside_the_folder_is_not_opened(chat_run, tmp_path):
    (chat_run / "checkpoint").rename(tmp_path / "checkpoint")
    (chat_run / "checkpoint").symlink_to(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="checkpoint is a link that leads out"):
        ask(Chat(RunFolder(chat_run.parent)))


def test_one_prompt_at_a_time_and_a_reader_that_leaves_stops_it(chat_run, monkeypatch):
    from expunge.view import models

    chat, stopped = Chat(RunFolder(chat_run.parent)), threading.Event()
    original = models.ChatModels.answer

    def endless(self, role, request, send):
        try:
            while True:
                original(self, role, request, send)
        finally:
            stopped.set()

    monkeypatch.setattr(models.ChatModels, "answer", endless)
    request = ChatRequest(run="one", question=QUESTION, roles=["unlearned"], max_new_tokens=2)

    async def leave():
        events = chat.start(request)
        await anext(events)
        with pytest.raises(UserError, match="another prompt is being answered"):
            chat.start(request)
        await events.aclose()

    asyncio.run(leave())
    assert stopped.wait(20)
    monkeypatch.undo()
    for _ in range(100):  # the thread releases the lock just after it has stopped
        if chat._lock.acquire(timeout=0.1):
            chat._lock.release()
            break
    assert ask(chat, max_new_tokens=1)["unlearned"][-1]["done"]


def test_the_server_streams_lines_of_json(chat_run):
    app = make_app(RunFolder(chat_run.parent), 7117, "t")
    with TestClient(app, base_url="http://127.0.0.1:7117") as client:
        client.get("/?token=t")
        body = {"run": "one", "question": QUESTION, "roles": ["unlearned"], "max_new_tokens": 2}
        response = client.post("/api/chat", json=body)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert json.loads(response.text.splitlines()[-1])["done"]
