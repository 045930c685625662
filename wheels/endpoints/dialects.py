"""What servers call things: vLLM's request and answer, and what chats, SGLang and llama.cpp say in their place.

The end of an address tells which it is: `/chat/completions` is a chat, of any server; `/generate` is SGLang's,
`/completion` llama.cpp's, anything else vLLM's `/v1/completions`, which `wheels serve` speaks too. Requests are made
and answers are read in vLLM's fields; here they are put into the server's own. The fields are those of SGLang's
`GenerateReqInput` (https://docs.sglang.io/basic_usage/sampling_params.html), and of llama.cpp's
`tools/server/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from wheels.endpoints.address import endpoint_url
from wheels.endpoints.client import Client, completion_of, value_of
from wheels.endpoints.faults import mapping

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Dialect:
    """How one kind of server is asked, and answers."""

    path: str = "/completions"
    """The end of its address."""
    sent: Callable[[Body], Body] = lambda body: body
    """Its own request for one of vLLM's."""
    read: Callable[[Any, Body], Any] = lambda answer, body: answer
    """vLLM's answer for one of its own, and for the request it was to."""
    shows_ids: bool = True
    """Whether it tells the ids that it reads of a text; else it tells the text that it reads of ids."""
    models: str = "/models"
    """Where its models are listed, in place of its path."""


def sglang_request(body: Body) -> dict[str, Any]:
    """Return the body of `/generate`."""
    prompt = body["prompt"]
    is_text = isinstance(prompt, str) or isinstance(prompt[0], str)
    own: dict[str, Any] = {"text" if is_text else "input_ids": prompt, "sampling_params": _sampling(body)}
    if (is_text and "return_token_ids" in body) or body.get(
        "prompt_logprobs"
    ):  # the ids of a prompt come with its log-probabilities
        own |= {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": body.get("prompt_logprobs", 0)}
    return own


def _sampling(body: Body) -> dict[str, Any]:
    """Return SGLang's parameters; what is left out would be that of the model's `generation_config.json`."""
    own = {"max_new_tokens": body["max_tokens"], "temperature": body["temperature"], "top_p": body.get("top_p", 1.0)}
    own |= {"top_k": body.get("top_k", -1), "min_p": 0.0, "repetition_penalty": 1.0}
    own |= {"sampling_seed": body["seed"]} if "seed" in body else {}
    return own | ({"stop": body["stop"]} if "stop" in body else {})


def sglang_answer(answer: Any, body: Body) -> Any:
    """Return a completion of `/generate`. It names no model, so its model is the one that was asked for."""
    rows = answer if isinstance(answer, list) else [answer]
    if not rows or not all("meta_info" in mapping(row) for row in rows):
        return answer
    told = [mapping(row["meta_info"]) for row in rows]
    choices = []
    for index, (row, info) in enumerate(zip(rows, told, strict=True)):
        finish, read, tops = (
            info.get(name) for name in ("finish_reason", "input_token_logprobs", "input_top_logprobs")
        )
        matched = mapping(finish).get("matched")
        choice = {"index": index, "finish_reason": mapping(finish).get("type"), "token_ids": row.get("output_ids")}
        choice["text"] = row.get("text")
        choice["stop_reason"] = matched if isinstance(matched, str) else None
        if isinstance(read, list):
            choice["prompt_token_ids"] = [_part(entry, 1) for entry in read]
        if isinstance(read, list) and isinstance(tops, list) and len(read) == len(tops):
            choice["prompt_logprobs"] = [_place([each, *(top or [])]) for each, top in zip(read, tops, strict=True)]
        choice["logprobs"] = {"token_logprobs": info.get("output_token_logprobs")}
        choices.append(choice)
    return {"model": body["model"], "choices": choices, "usage": _usage(told)}


def _part(entry: Any, place: int) -> Any:
    """Return a part of SGLang's `[log-probability, id, text]`."""
    return entry[place] if isinstance(entry, list) and len(entry) > place else None


def _place(entries: list[Any]) -> dict[str, Any]:
    """Return vLLM's log-probabilities in one place of a prompt, of the token there and the likeliest ones."""
    return {str(_part(each, 1)): {"logprob": _part(each, 0)} for each in entries if _part(each, 0) is not None}


def llama_request(body: Body) -> dict[str, Any]:
    """Return the body of `/completion`, with no sampler but those that were asked for."""
    own = {"prompt": body["prompt"], "n_predict": body["max_tokens"], "return_tokens": True, "cache_prompt": True}
    own |= {"temperature": body["temperature"], "top_p": body.get("top_p", 1.0), "top_k": body.get("top_k", 0)}
    own |= {"samplers": ["temperature", "top_k", "top_p"], "n_probs": body.get("logprobs", 0)}
    return own | {name: body[name] for name in ("seed", "stop") if name in body}


LLAMA_ENDS = {"eos": "stop", "word": "stop", "limit": "length"}
"""vLLM's `finish_reason` of llama.cpp's `stop_type`."""


def llama_answer(answer: Any, body: Body) -> Any:
    """Return a completion of `/completion`."""
    rows = answer if isinstance(answer, list) else [answer]
    if not rows or not all("stop_type" in mapping(row) for row in rows):
        return answer
    choices = [
        {
            "index": row.get("index"),
            "finish_reason": LLAMA_ENDS.get(str(row["stop_type"]), row["stop_type"]),
            "stop_reason": row.get("stopping_word") or None,
            "token_ids": row.get("tokens"),
            "text": row.get("content"),
            "prompt_text": row.get("prompt"),
            "logprobs": {"token_logprobs": row.get("completion_probabilities")},
        }
        for row in rows
    ]
    names = {"prompt_tokens": "tokens_evaluated", "completion_tokens": "tokens_predicted"}
    told = [{ours: row.get(own) for ours, own in names.items()} for row in rows]
    for own, row in zip(told, rows, strict=True):
        own["cached_tokens"] = mapping(row.get("timings")).get("cache_n")
    return {"model": rows[0].get("model"), "choices": choices, "usage": _usage(told)}


def chat_answer(answer: Any, body: Body) -> Any:
    """Return a completion of a chat's: the text of each message, without what was thought before it."""
    choices = mapping(answer).get("choices")
    if not isinstance(choices, list):
        return answer
    texts = [mapping(mapping(choice).get("message")).get("content") for choice in choices]
    told = [dict(mapping(choice)) | {"text": text} for choice, text in zip(choices, texts, strict=True)]
    return dict(answer) | {"choices": told}


def _usage(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return vLLM's usage for that of each text."""
    details = {"cached_tokens": _total(told, "cached_tokens")}
    counts = {name: _total(told, name) for name in ("prompt_tokens", "completion_tokens")}
    return counts | {"prompt_tokens_details": details}


def _total(told: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Return a count of all texts; None where one of them lacks it."""
    counts = [each.get(name) for each in told]
    return None if None in counts else sum(count for count in counts if isinstance(count, int))


VLLM = Dialect()
CHAT = Dialect("/chat/completions", read=chat_answer)
OWN = "/v1/models"
"""Where SGLang and llama.cpp list their models, beside fields of their own."""
DIALECTS = (
    Dialect("/generate", sglang_request, sglang_answer, models=OWN),
    Dialect("/completion", llama_request, llama_answer, shows_ids=False, models=OWN),
    CHAT,
    VLLM,
)


def dialect_of(url: httpx2.URL) -> Dialect:
    """Return what the server at an address speaks."""
    return next((each for each in DIALECTS if url.path.endswith(each.path)), VLLM)


def teacher_url(url: str) -> httpx2.URL:
    """Return where requests for tokens go, for what a user gives as a server's address.

    Raises:
        WheelsError: as `endpoint_url`.
    """
    path = next((each.path for each in DIALECTS if url.strip().rstrip("/").endswith(each.path)), VLLM.path)
    return endpoint_url(url.strip(), path)


def ask(client: Client, body: Body) -> dict[str, Any]:
    """Return the answer to a request, both in vLLM's fields.

    Raises:
        WheelsError: as `Client.retried`.
    """
    dialect = dialect_of(client.url)
    own = dialect.sent(body)
    return client.retried(lambda: completion_of(dialect.read(value_of(client.posted(own)), body)))
