"""What a server has: asked once, in one round trip, before anything that counts is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from wheels.endpoints.client import Client, content_of, value_of
from wheels.endpoints.dialects import CHAT, OWN, ask, dialect_of
from wheels.endpoints.faults import RequestRefused, ServerRefused, mapping
from wheels.endpoints.usage import USED_NOTHING, Usage, usage_of
from wheels.errors import did_you_mean
from wheels.models.loading import Tokenizer

WORDS = 24
"""Words of a probe: tokens from all over the vocabulary, so that another tokenizer shows itself."""
ASKED = "What is the capital of France? Answer in one sentence."
BEGUN, COMPLETED = "The name of the city that is the capital of the country called Fra", "nce"
"""The beginning of a chat's answer, and how one goes on that continues it. A new answer does not come so far."""
CHAT_COST = (256, 4)
"""Tokens that such a probe has read and written at most."""
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
"""What makes vLLM and SGLang continue the assistant's message. Others do it unasked, or not at all."""
CONTINUING = ("vllm", "sglang", "llamacpp")
"""Servers that continue it whatever their model is."""


@dataclass(frozen=True)
class Probe:
    """What a server has: found out once, before it is asked for anything that counts."""

    server: str
    """Who made it, as it says: `wheels`, `vllm`, `sglang`, `llamacpp`; or `unknown`."""
    name: str
    """What it calls the model in its answers."""
    limit: int | None
    """Tokens that the model reads at most; None: it does not say."""
    batches: bool
    """Whether one request may hold several texts."""
    log_probs: bool
    """Whether it gives log-probabilities."""
    usage: Usage = USED_NOTHING
    """What finding this out used."""
    difference: str | None = None
    """Why its tokens cannot stand among a student's, so that text goes there and back; None: they can."""
    continues: bool = True
    """Whether it writes on after a text that is begun; a chat may begin anew."""
    echoes: bool = False
    """Whether the text that was begun stands in its answer too."""

    @property
    def is_wheels(self) -> bool:
        """Whether it is `wheels serve`, which continues the outputs of encoder-decoders too."""
        return self.server == "wheels"

    def __str__(self) -> str:
        parts = [
            "token ids" if self.difference is None else "text",
            "log-probabilities" if self.log_probs else "no log-probabilities",
            "several texts a request" if self.batches else "one text a request",
            "no limit known" if self.limit is None else f"{self.limit} tokens of context",
        ]
        return f"{self.name} ({self.server}): {', '.join(parts)}"


def probe_of(client: Client, model: str, tokenizer: Tokenizer) -> Probe:
    """Find out what a server has.

    A list of its models and a completion of two texts are asked for at the same time. The texts go out as text, and the
    ids that the server reads of them tell whether its tokenizer is ours. A server that does not show ids is sent ids,
    and the text that it reads of them tells the same. A chat is asked for the rest of an answer that is begun.

    Raises:
        WheelsError: where it does not answer, or does not know the model.
    """
    texts, dialect = probe_texts(tokenizer), dialect_of(client.url)
    prompts = texts if dialect.shows_ids else [tokenizer(text).input_ids for text in texts]
    with ThreadPoolExecutor(2) as pool:
        listing = pool.submit(models_of, client)
        trying = pool.submit(
            lambda: chat_of(client, model) if dialect is CHAT else completions_of(client, model, prompts)
        )
        known = listing.result()
        names = [name for each in known for name in names_of(each)]
        try:
            answer, all_of_it = trying.result()
            if dialect.models == OWN and names and model not in names:  # these answer whatever they are asked for
                raise ServerRefused(client.with_address(f"has no model {model!r}"))
        except ServerRefused as refusal:
            if not names or model in names:
                raise
            hint = did_you_mean(model, names) or f"; it has {', '.join(names)[:200]}"
            raise ServerRefused(f"{refusal}: is {model!r} its name?{hint}") from None
    own: Mapping[str, Any] = next((each for each in known if model in names_of(each)), {})
    first = mapping(answer["choices"][0])
    limit, server = own.get("max_model_len", mapping(own.get("meta")).get("n_ctx")), own.get("owned_by")
    count = len(answer["choices"])
    read = sum(len(tokenizer(text).input_ids) for text in texts[:count])
    usage = usage_of(mapping(answer.get("usage")), read, count)
    found = Probe(
        server=server if isinstance(server, str) else "unknown",
        name=str(answer.get("model")),
        limit=limit if isinstance(limit, int) and limit > 0 else None,
        batches=dialect is not CHAT and all_of_it and usage.completion >= count,  # llama-server counts one text alone
        log_probs=bool(mapping(first.get("logprobs")).get("token_logprobs")),
        usage=usage,
    )
    if dialect is CHAT:
        told = f"{client.url} is a chat, which takes and gives text alone"
        text = str(first.get("text"))
        echoes = text.startswith(BEGUN)
        continues = all_of_it and (echoes or text.startswith(COMPLETED) or found.server in CONTINUING)
        return replace(found, difference=told, continues=continues, echoes=echoes)
    return replace(found, difference=difference_of(client, tokenizer, texts[0], first))


def models_of(client: Client) -> list[Mapping[str, Any]]:
    """Return what a server says of its models; nothing where it lists none."""
    path, dialect = client.url.raw_path.decode().partition("?")[0], dialect_of(client.url)
    path = path.removesuffix(dialect.path) + dialect.models
    url = client.url.copy_with(raw_path=path.encode())
    try:
        listed = mapping(client.retried(lambda: value_of(content_of(client.fetch(None, url=url))))).get("data")
    except (RequestRefused, ServerRefused):
        return []
    return [mapping(each) for each in listed] if isinstance(listed, list) else []


def names_of(model: Mapping[str, Any]) -> list[str]:
    """Return what a server calls one of its models."""
    aliases = model.get("aliases")
    return [str(model.get("id")), *(map(str, aliases) if isinstance(aliases, list) else ())]


def completions_of(client: Client, model: str, prompts: Sequence[Any]) -> tuple[dict[str, Any], bool]:
    """Return the answer to a request of one token after each prompt, and whether the server takes several at once.

    A server that refuses is asked for less: one prompt, then no log-probabilities.
    """
    body = {"model": model, "max_tokens": 1, "temperature": 0.0, "return_token_ids": True}
    several: list[dict[str, Any]] = [{"prompt": prompts}, {"prompt": prompts[0]}]
    wishes = [prompt | {"logprobs": 1} for prompt in several] + several
    for wish in wishes:
        try:
            whole = ask(client, body | wish)
        except RequestRefused:
            if wish is wishes[-1]:
                raise
        else:
            if len(whole["choices"]) == len(prompts) or wish["prompt"] is not prompts:
                return whole, len(whole["choices"]) == len(prompts)
    raise AssertionError("the last wish returns or raises")


def chat_of(client: Client, model: str) -> tuple[dict[str, Any], bool]:
    """Return a chat's answer to a question whose answer is begun, and whether it takes a beginning at all.

    One that refuses how it is asked to continue is asked without, and then the question alone.
    """
    asked = [{"role": "user", "content": ASKED}]
    begun = {"messages": [*asked, {"role": "assistant", "content": BEGUN}]}
    body = {"model": model, "max_tokens": CHAT_COST[1], "temperature": 0.0}
    for wish in (begun | CONTINUE, begun):
        try:
            whole = ask(client, body | wish)
        except RequestRefused:
            continue
        if wish is begun:
            client.renamed = {**client.renamed, **dict.fromkeys(CONTINUE)}
        return whole, True
    return ask(client, body | {"messages": asked}), False


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Return two texts of whole words that the tokenizer knows."""
    known = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    step = max(1, len(known) // (WORDS * 8))
    words = [str(tokenizer.decode([token])).strip() for token in known[::step]]
    plain = [word for word in dict.fromkeys(words) if word.isascii() and word.isalnum()][-WORDS:]
    return [" ".join(plain) or "a", "a"]


def probe_cost(client: Client, tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the tokens that a probe has read and written at most; no template stands around texts but in a chat."""
    if dialect_of(client.url) is CHAT:
        return CHAT_COST
    texts = probe_texts(tokenizer)
    return sum(len(tokenizer(text).input_ids) for text in texts), len(texts)


def difference_of(client: Client, tokenizer: Tokenizer, text: str, choice: Mapping[str, Any]) -> str | None:
    """Return why a server's tokens are not a student's: it gives no ids, or reads other ids of a text. None: they are.

    A template may stand around the text at the server, so it is enough that its words come back out of what was read.
    """
    ids, wrote, read = choice.get("prompt_token_ids"), choice.get("token_ids"), choice.get("prompt_text")
    if not isinstance(wrote, list) or not (isinstance(ids, list) or isinstance(read, str)):
        return (
            f"{client.url} gives no token ids (return_token_ids), as vLLM from 0.10.2 on, `wheels serve`, SGLang "
            "(http://host:port/generate) and llama.cpp (http://host:port/completion) do"
        )
    size, ids = max(tokenizer.get_vocab().values()) + 1, ids or []
    known = [token for token in ids if isinstance(token, int) and 0 <= token < size]
    own = str(tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)).split()
    own = own[1:-1] or own  # a template may be joined to the first and the last
    back = (read if isinstance(read, str) else str(tokenizer.decode(known, skip_special_tokens=True))).split()
    places = range(len(back) - len(own) + 1)
    if len(known) == len(ids) and any(back[place : place + len(own)] == own for place in places):
        return None
    return (
        f"{client.url} has another tokenizer than the student: of {text[:40]!r}... it reads {' '.join(back)[:60]!r}..."
    )
