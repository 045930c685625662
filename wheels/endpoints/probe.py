"""What a server has: asked once, in one round trip, before anything that counts is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from wheels.endpoints.client import Client, content_of, value_of
from wheels.endpoints.dialects import VLLM, ask, dialect_of
from wheels.endpoints.faults import RequestRefused, ServerRefused, mapping
from wheels.endpoints.usage import USED_NOTHING, Usage, usage_of
from wheels.errors import WheelsError, did_you_mean
from wheels.models.loading import Tokenizer

WORDS = 24
"""Words of a probe: tokens from all over the vocabulary, so that another tokenizer shows itself."""


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

    @property
    def is_wheels(self) -> bool:
        """Whether it is `wheels serve`, which continues the outputs of encoder-decoders too."""
        return self.server == "wheels"

    def __str__(self) -> str:
        parts = [
            "token ids",
            "log-probabilities" if self.log_probs else "no log-probabilities",
            "several texts a request" if self.batches else "one text a request",
            "no limit known" if self.limit is None else f"{self.limit} tokens of context",
        ]
        return f"{self.name} ({self.server}): {', '.join(parts)}"


def probe_of(client: Client, model: str, tokenizer: Tokenizer) -> Probe:
    """Find out what a server has.

    A list of its models and a completion of two texts are asked for at the same time. The texts go out as text, and the
    ids that the server reads of them tell whether its tokenizer is ours. A server that does not show ids is sent ids,
    and the text that it reads of them tells the same.

    Raises:
        WheelsError: where it does not answer, does not know the model, gives no token ids, or has another tokenizer.
    """
    texts, dialect = probe_texts(tokenizer), dialect_of(client.url)
    prompts = texts if dialect.shows_ids else [tokenizer(text).input_ids for text in texts]
    with ThreadPoolExecutor(2) as pool:
        listing = pool.submit(models_of, client)
        trying = pool.submit(completions_of, client, model, prompts)
        known = listing.result()
        names = [name for each in known for name in names_of(each)]
        try:
            answer, batches = trying.result()
            if dialect is not VLLM and names and model not in names:  # these answer whatever they are asked for
                raise ServerRefused(client.with_address(f"has no model {model!r}"))
        except ServerRefused as refusal:
            if not names or model in names:
                raise
            hint = did_you_mean(model, names) or f"; it has {', '.join(names)[:200]}"
            raise ServerRefused(f"{refusal}: is {model!r} its name?{hint}") from None
    own: Mapping[str, Any] = next((each for each in known if model in names_of(each)), {})
    first = mapping(answer["choices"][0])
    check_tokenizer(client, tokenizer, texts[0], first)
    limit, server = own.get("max_model_len", mapping(own.get("meta")).get("n_ctx")), own.get("owned_by")
    read = sum(len(tokenizer(text).input_ids) for text in texts[: len(answer["choices"])])
    return Probe(
        server=server if isinstance(server, str) else "unknown",
        name=str(answer.get("model")),
        limit=limit if isinstance(limit, int) and limit > 0 else None,
        batches=batches,
        log_probs=bool(mapping(first.get("logprobs")).get("token_logprobs")),
        usage=usage_of(mapping(answer.get("usage")), read, len(answer["choices"])),
    )


def models_of(client: Client) -> list[Mapping[str, Any]]:
    """Return what a server says of its models; nothing where it lists none."""
    path, dialect = client.url.raw_path.decode().partition("?")[0], dialect_of(client.url)
    path = path.removesuffix(dialect.path) + ("/models" if dialect is VLLM else "/v1/models")
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


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Return two texts of whole words that the tokenizer knows."""
    known = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    step = max(1, len(known) // (WORDS * 8))
    words = [str(tokenizer.decode([token])).strip() for token in known[::step]]
    plain = [word for word in dict.fromkeys(words) if word.isascii() and word.isalnum()][-WORDS:]
    return [" ".join(plain) or "a", "a"]


def probe_cost(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the tokens that a probe has read and written, where no template stands around its texts."""
    texts = probe_texts(tokenizer)
    return sum(len(tokenizer(text).input_ids) for text in texts), len(texts)


def check_tokenizer(client: Client, tokenizer: Tokenizer, text: str, choice: Mapping[str, Any]) -> None:
    """Raise a `WheelsError` where a server gives no ids, or reads other ids of a text than the student's tokenizer.

    A template may stand around the text at the server, so it is enough that its words come back out of what was read.
    """
    ids, wrote, read = choice.get("prompt_token_ids"), choice.get("token_ids"), choice.get("prompt_text")
    if not isinstance(wrote, list) or not (isinstance(ids, list) or isinstance(read, str)):
        raise WheelsError(
            f"{client.url} gives no token ids (return_token_ids), so its tokens cannot stand among a student's; a "
            "remote teacher is a server of vLLM, 0.10.2 or later, or `wheels serve`; of SGLang "
            "(http://host:port/generate); or of llama.cpp (http://host:port/completion)"
        )
    size, ids = max(tokenizer.get_vocab().values()) + 1, ids or []
    known = [token for token in ids if isinstance(token, int) and 0 <= token < size]
    own = str(tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)).split()
    own = own[1:-1] or own  # a template may be joined to the first and the last
    back = (read if isinstance(read, str) else str(tokenizer.decode(known, skip_special_tokens=True))).split()
    places = range(len(back) - len(own) + 1)
    if len(known) < len(ids) or not any(back[place : place + len(own)] == own for place in places):
        raise WheelsError(
            f"{client.url} has another tokenizer than the student: of {text[:40]!r}... it reads "
            f"{' '.join(back)[:60]!r}...; a teacher and its student need one tokenizer"
        )
