"""A language model that grades answers: behind a service or loaded here. Every reply is kept as soon as it comes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.config.recipe import Model, Prompt, Section
from expunge.console import is_main_process, note, progress
from expunge.errors import UserError
from expunge.probes.requests import GenerationRequest
from expunge.rundir import fingerprint
from expunge.services.chat import ChatReply, ChatService, Messages, ReplyError, ReplyFile, with_retries

if TYPE_CHECKING:
    from expunge.probes.session import Session


_CHARACTERS_PER_TOKEN = 4
_LOCAL_CHUNK = 16
"""Replies of a local judge between two writes."""

_SERVICE_ONLY = ("api_key_env", "timeout_seconds", "attempts", "backoff_seconds", "parallel")
_LOCAL_ONLY = ("revision", "dtype")


class Judge(Section):
    """A judge: a model behind any service that speaks OpenAI's protocol, or a local one."""

    model: str
    """Name of the model as the service knows it; without `url` a folder or hub id, loaded beside the judged model."""
    url: str | None = None
    """Address of the service up to its version, such as https://api.openai.com/v1 or http://localhost:8000/v1."""
    api_key_env: str | None = None
    """Environment variable that holds the service's key."""
    revision: str | None = None
    """Local model from the hub: commit, tag or branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of a local model."""
    temperature: float = Field(default=0.0, ge=0)
    """0 for the likeliest reply."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest reply in tokens."""
    store: str = "judgments"
    """Folder in which every reply is kept at once; the same question about the same answer is never asked again."""
    parallel: int = Field(default=4, ge=1)
    """Requests under way at a time."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest wait for one reply."""
    attempts: int = Field(default=5, ge=1)
    """Tries per reply."""
    backoff_seconds: float = Field(default=2.0, ge=0)
    """First wait between tries; it doubles each time, and is never shorter than the service asks for."""

    @model_validator(mode="after")
    def _no_dead_settings(self) -> Self:
        dead = changed(self, *(_SERVICE_ONLY if self.url is None else _LOCAL_ONLY))
        if dead:
            raise ValueError(f"{dead[0]} has no effect {'without' if self.url is None else 'with'} url")
        return self


class _Stopped(Exception):
    """Another reply failed for good; no new one is asked for."""


def judged(judge: Judge, prompts: Sequence[Messages], session: Session) -> list[str | None]:
    """The judge's reply to each prompt; those that are kept are not asked for again.

    Args:
        judge: The judge.
        prompts: What to ask: a system message and a user message each.
        session: The model under measurement: a local judge runs where it does.

    Returns:
        Replies in order; None where a prompt does not fit into a local judge's context.

    Raises:
        UserError: The judge cannot be loaded or reached, refuses, or gave no reply in all attempts. What it replied
            until then is kept.
    """
    loaded = None if judge.url is not None else _load(judge, session)
    identity = [judge.url, judge.model, judge.temperature, judge.max_tokens, None if loaded is None else loaded[2]]
    file = ReplyFile(Path(judge.store).expanduser() / f"{fingerprint(identity)}.jsonl")
    keys = [fingerprint(prompt) for prompt in prompts]

    def kept() -> dict[str, str]:
        return {str(entry.get("prompt")): str(entry["reply"]) for entry in file if "reply" in entry}

    from expunge.distributed import run_on_main

    known = run_on_main(kept)
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
    _announce(judge, missing, len(set(keys)) - len(missing), file)
    if missing and loaded is None:
        run_on_main(functools.partial(_ask_service, judge, missing, file))
    elif missing and loaded is not None:
        _ask_local(judge, missing, file, session, *loaded[:2])
    known = run_on_main(kept)
    return [known.get(key) for key in keys]


def _announce(judge: Judge, missing: Mapping[str, Messages], num_kept: int, file: ReplyFile) -> None:
    """Say what it will cost before it starts."""
    characters = sum(len(message["content"]) for prompt in missing.values() for message in prompt)
    tokens = f"about {characters // _CHARACTERS_PER_TOKEN:,} prompt tokens ({_CHARACTERS_PER_TOKEN} characters each)"
    most = f"at most {len(missing) * judge.max_tokens:,} completion tokens"
    note(
        f"Judging with {judge.model}: {len(missing)} calls, {tokens} and {most}. {num_kept} judgments are known "
        f"already; each is kept in {file.path} at once."
    )


def _ask_service(judge: Judge, missing: Mapping[str, Messages], file: ReplyFile) -> None:
    service = ChatService(str(judge.url), judge.model, judge.api_key_env, judge.timeout_seconds)
    stopped, replies = threading.Event(), list[ChatReply]()

    def once(prompt: Messages) -> ChatReply:
        if stopped.is_set():
            raise _Stopped
        return service.ask(prompt, temperature=judge.temperature, max_tokens=judge.max_tokens)

    def one(key: str, prompt: Messages) -> ChatReply:
        try:
            reply = with_retries(functools.partial(once, prompt), judge.attempts, judge.backoff_seconds)
        except BaseException:
            stopped.set()
            raise
        file.add({"prompt": key, "judge": judge.model, "reply": reply.text})
        return reply

    with ThreadPoolExecutor(judge.parallel) as pool, progress("Judging", len(missing), "answers") as advance:
        tasks = [pool.submit(one, key, prompt) for key, prompt in missing.items()]
        try:
            for task in as_completed(tasks):
                # Whoever was stopped says nothing; the reply that failed says why.
                with contextlib.suppress(_Stopped):
                    replies.append(task.result())
                    advance(1)
        except ReplyError as error:
            raise UserError(
                f"the judge at {service.address} gave no usable reply in {judge.attempts} attempts; the last one "
                f"failed with {error}.",
                fix=f"The judgments so far are kept in {file.path}; the same command goes on from there.",
            ) from error
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    counted = [sum(reply.prompt_tokens for reply in replies), sum(reply.completion_tokens for reply in replies)]
    if any(counted):
        note(f"The judge counted {counted[0]:,} prompt tokens and {counted[1]:,} completion tokens.")


def _load(judge: Judge, session: Session) -> tuple[Any, Any, str]:
    """Model, tokenizer and hash of the weights of a local judge."""
    import torch

    from expunge.modeling.load import check_tokenizer, load_model, load_tokenizer, model_hash

    tokenizer = load_tokenizer(judge.model, judge.revision)
    model = load_model(
        judge.model,
        config=Model(name=judge.model),
        revision=judge.revision,
        dtype=getattr(torch, judge.dtype),
        device=next(session.model.parameters()).device,
    )
    check_tokenizer(model, tokenizer, judge.model)
    return model, tokenizer, model_hash(model)


def _ask_local(
    judge: Judge, missing: Mapping[str, Messages], file: ReplyFile, session: Session, model: Any, tokenizer: Any
) -> None:
    import torch

    for system in dict.fromkeys(prompt[0]["content"] for prompt in missing.values()):
        asker, before = _asker(judge, session, model, tokenizer, system)
        own = {key: prompt[1]["content"] for key, prompt in missing.items() if prompt[0]["content"] == system}
        keys = list(own)
        for start in range(0, len(keys), _LOCAL_CHUNK):
            part = keys[start : start + _LOCAL_CHUNK]
            requests = [
                GenerationRequest(
                    "judge", i, before + own[key], judge.max_tokens, temperature=judge.temperature, seed=int(key, 16)
                )
                for i, key in enumerate(part)
            ]
            # The judged model's precision is not the judge's.
            with torch.autocast(next(model.parameters()).device.type, enabled=False):
                replies = asker.generate(requests)
            for request, key in zip(requests, part, strict=True):
                if request.key in replies and is_main_process():
                    file.add({"prompt": key, "judge": judge.model, "reply": replies[request.key]})


def _asker(judge: Judge, session: Session, model: Any, tokenizer: Any, system: str) -> tuple[Session, str]:
    """A session with the judge, and what stands before each question: the system's text, where it has no place."""
    from expunge.data.templates import Template
    from expunge.modeling.load import context_length
    from expunge.probes.cache import ProbeCache
    from expunge.probes.session import Session

    takes = _takes_system(tokenizer, system)
    prompt = Prompt(style="chat" if tokenizer.chat_template else "plain", system=system if takes else None)
    template = Template(tokenizer, prompt, context_length(model.config))
    if template.prints_today and session.template.day:
        # The judge reads the same date as the measured model, also when it is asked again on another day.
        prompt = prompt.model_copy(update={"date": session.template.day})
        template = Template(tokenizer, prompt, template.max_length)
    label = f"judgments of {judge.model}"
    asker = Session(model, session.sets, template, session.batch_tokens, ProbeCache(None, []), label)
    return asker, "" if takes else f"{system}\n\n"


def _takes_system(tokenizer: Any, system: str) -> bool:
    """Whether the chat template writes a system message; some leave it out, some refuse it."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return False
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
    try:
        return system.strip() in str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError:
        return False
