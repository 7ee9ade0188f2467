"""Rate answers with a language model, behind a service or loaded locally; replies are saved as they arrive."""

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
"""Number of replies of a local judge between two writes."""

_SERVICE_ONLY = ("api_key_env", "timeout_seconds", "attempts", "backoff_seconds", "parallel")
_LOCAL_ONLY = ("revision", "dtype")


class Judge(Section):
    """A judge model: behind any service with OpenAI's protocol, or local."""

    model: str
    """Name of the model at the service; without `url` a folder or hub id, loaded beside the judged model."""
    url: str | None = None
    """Base address of the service, with its version: https://api.openai.com/v1 or http://localhost:8000/v1."""
    api_key_env: str | None = None
    """Environment variable with the service's API key."""
    revision: str | None = None
    """Local model from the hub: commit, tag or branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of a local model."""
    temperature: float = Field(default=0.0, ge=0)
    """0 for the likeliest reply."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest reply in tokens."""
    store: str = "judgments"
    """Folder in which replies are saved as they arrive; the same prompt is never sent again."""
    parallel: int = Field(default=4, ge=1)
    """Number of concurrent requests."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest wait for one reply."""
    attempts: int = Field(default=5, ge=1)
    """Attempts per reply."""
    backoff_seconds: float = Field(default=2.0, ge=0)
    """First wait between attempts; it doubles each time, and is at least what the service requests."""

    @model_validator(mode="after")
    def _no_dead_settings(self) -> Self:
        dead = changed(self, *(_SERVICE_ONLY if self.url is None else _LOCAL_ONLY))
        if dead:
            raise ValueError(f"{dead[0]} has no effect {'without' if self.url is None else 'with'} url")
        return self


class _Stopped(Exception):
    """Another reply failed permanently, so no further request is sent."""


def judge_replies(judge: Judge, prompts: Sequence[Messages], session: Session) -> list[str | None]:
    """Return the judge's reply to each prompt; saved replies are not requested again.

    Args:
        judge: The judge.
        prompts: A system message and a user message each.
        session: The measured model; a local judge runs on its device.

    Returns:
        Replies in order; None for a prompt that does not fit into a local judge's context.

    Raises:
        UserError: The judge cannot be loaded or reached, refuses, or failed in all attempts. Replies so far are saved.
    """
    loaded = None if judge.url is not None else _load_judge(judge, session)
    identity = [judge.url, judge.model, judge.temperature, judge.max_tokens, None if loaded is None else loaded[2]]
    file = ReplyFile(Path(judge.store).expanduser() / f"{fingerprint(identity)}.jsonl")
    keys = [fingerprint(prompt) for prompt in prompts]

    def saved() -> dict[str, str]:
        return {str(entry.get("prompt")): str(entry["reply"]) for entry in file if "reply" in entry}

    from expunge.distributed import run_on_main

    replies = run_on_main(saved)
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in replies}
    _print_cost(judge, missing, len(set(keys)) - len(missing), file)
    if missing and loaded is None:
        run_on_main(functools.partial(_ask_service, judge, missing, file))
    elif missing and loaded is not None:
        _ask_local(judge, missing, file, session, *loaded[:2])
    replies = run_on_main(saved)
    return [replies.get(key) for key in keys]


def _print_cost(judge: Judge, missing: Mapping[str, Messages], num_saved: int, file: ReplyFile) -> None:
    """Print an estimate of the tokens, before the first request."""
    characters = sum(len(message["content"]) for prompt in missing.values() for message in prompt)
    tokens = f"about {characters // _CHARACTERS_PER_TOKEN:,} prompt tokens ({_CHARACTERS_PER_TOKEN} characters each)"
    most = f"at most {len(missing) * judge.max_tokens:,} completion tokens"
    note(
        f"Judging with {judge.model}: {len(missing)} calls, {tokens} and {most}. {num_saved} judgments are saved "
        f"already; new ones are saved in {file.path} as they arrive."
    )


def _ask_service(judge: Judge, missing: Mapping[str, Messages], file: ReplyFile) -> None:
    service = ChatService(str(judge.url), judge.model, judge.api_key_env, judge.timeout_seconds)
    stopped, replies = threading.Event(), list[ChatReply]()

    def request(prompt: Messages) -> ChatReply:
        if stopped.is_set():
            raise _Stopped
        return service.ask(prompt, temperature=judge.temperature, max_tokens=judge.max_tokens)

    def request_and_save(key: str, prompt: Messages) -> ChatReply:
        try:
            reply = with_retries(functools.partial(request, prompt), judge.attempts, judge.backoff_seconds)
        except BaseException:
            stopped.set()
            raise
        file.add({"prompt": key, "judge": judge.model, "reply": reply.text})
        return reply

    with ThreadPoolExecutor(judge.parallel) as pool, progress("Judging", len(missing), "answers") as advance:
        tasks = [pool.submit(request_and_save, key, prompt) for key, prompt in missing.items()]
        try:
            for task in as_completed(tasks):
                # Requests that were stopped are ignored; the one that failed raises the error.
                with contextlib.suppress(_Stopped):
                    replies.append(task.result())
                    advance(1)
        except ReplyError as error:
            raise UserError(
                f"the judge at {service.address} gave no usable reply in {judge.attempts} attempts; last failure: "
                f"{error}.",
                fix=f"The judgments so far are saved in {file.path}; the same command resumes from there.",
            ) from error
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    prompt_tokens = sum(reply.prompt_tokens for reply in replies)
    completion_tokens = sum(reply.completion_tokens for reply in replies)
    if prompt_tokens or completion_tokens:
        note(f"The judge counted {prompt_tokens:,} prompt tokens and {completion_tokens:,} completion tokens.")


def _load_judge(judge: Judge, session: Session) -> tuple[Any, Any, str]:
    """Return model, tokenizer and weight hash of a local judge."""
    from expunge.modeling.load import load_tokenizer, model_hash
    from expunge.modeling.opening import open_model

    tokenizer = load_tokenizer(judge.model, judge.revision)
    device: Literal["cuda", "cpu"] = "cuda" if next(session.model.parameters()).is_cuda else "cpu"
    config = Model(name=judge.model, revision=judge.revision, dtype=judge.dtype, device=device)
    model = open_model(config, judge.model, tokenizer, revision=judge.revision)
    return model, tokenizer, model_hash(model)


def _ask_local(
    judge: Judge, missing: Mapping[str, Messages], file: ReplyFile, session: Session, model: Any, tokenizer: Any
) -> None:
    import torch

    for system in dict.fromkeys(prompt[0]["content"] for prompt in missing.values()):
        judge_session, prefix = _judge_session(judge, session, model, tokenizer, system)
        texts = {key: prompt[1]["content"] for key, prompt in missing.items() if prompt[0]["content"] == system}
        keys = list(texts)
        for start in range(0, len(keys), _LOCAL_CHUNK):
            chunk = keys[start : start + _LOCAL_CHUNK]
            requests = [
                GenerationRequest(
                    "judge", i, prefix + texts[key], judge.max_tokens, temperature=judge.temperature, seed=int(key, 16)
                )
                for i, key in enumerate(chunk)
            ]
            # The measurement may run under autocast, which must not change the judge's precision.
            with torch.autocast(next(model.parameters()).device.type, enabled=False):
                replies = judge_session.generate(requests)
            for request, key in zip(requests, chunk, strict=True):
                if request.key in replies and is_main_process():
                    file.add({"prompt": key, "judge": judge.model, "reply": replies[request.key]})


def _judge_session(judge: Judge, session: Session, model: Any, tokenizer: Any, system: str) -> tuple[Session, str]:
    """Return a session with the judge, and a prefix of each prompt: the system text if the template drops it."""
    from expunge.data.templates import Template
    from expunge.modeling.adapters import causal_lm
    from expunge.modeling.load import context_length
    from expunge.probes.cache import ProbeCache
    from expunge.probes.session import Session

    in_template = _takes_system(tokenizer, system)
    prompt = Prompt(style="chat" if tokenizer.chat_template else "plain", system=system if in_template else None)
    template = Template(tokenizer, prompt, context_length(causal_lm(model).config))
    if template.prints_today and session.template.day:
        # The judge reads the same date as the measured model, also when it is asked again on another day.
        prompt = prompt.model_copy(update={"date": session.template.day})
        template = Template(tokenizer, prompt, template.max_length)
    label = f"judgments of {judge.model}"
    judge_session = Session(model, session.sets, template, session.batch_tokens, ProbeCache(None, []), label)
    return judge_session, "" if in_template else f"{system}\n\n"


def _takes_system(tokenizer: Any, system: str) -> bool:
    """Return whether the chat template writes system messages; some templates drop them, some raise an error."""
    from expunge.data.rendering import FAILURES, render

    if not tokenizer.chat_template:
        return False
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
    try:
        return system.strip() in render(tokenizer, messages)
    except FAILURES:
        return False
