"""Servers on the loopback with the fields of SGLang's `/generate` and llama.cpp's `/completion` around a tiny model."""

from typing import Any, ClassVar

from tests.decoding.remote.fake_vllm import LIMIT, NAME, FakeVllm, Handler

SGLANG_SAMPLING = {
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop",
    "sampling_seed",
}
"""Those of `SamplingParams` that a teacher needs; another name is an error there."""


class Sglang(Handler):
    """`GenerateReqInput` in; `output_ids` and `meta_info` out."""

    def answer(self, body: dict[str, Any]) -> None:
        server, own = self.server, body["sampling_params"]
        if self.path != "/generate" or ("text" in body) == ("input_ids" in body) or set(own) - SGLANG_SAMPLING:
            return self.error(400, "Either text, input_ids or input_embeds should be provided.")
        given = body.get("text", body.get("input_ids"))
        several = isinstance(given, list) and not isinstance(given[0], int)
        if several and not server.batches:
            return self.error(400, "one text alone")
        prompts = [
            server.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
            for prompt in (given if several else [given])
        ]
        if any(len(prompt) + own["max_new_tokens"] > LIMIT for prompt in prompts):
            return self.error(400, f"Requested token count exceeds the model's maximum context length of {LIMIT}")
        with server.lock:
            rows = [self.row(prompt, body) for prompt in prompts]
        return self.reply(200, server.change(rows if several else rows[0]))

    def row(self, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        own, start = body["sampling_params"], body.get("logprob_start_len", -1)
        ids, reason, stop = self.server.write(prompt, own["max_new_tokens"], own.get("stop", []))
        matched = {"matched": stop or ids[-1]} if reason == "stop" else {"length": len(ids)}
        info = {"id": "1", "finish_reason": {"type": reason, **matched}, "prompt_tokens": len(prompt)}
        info |= {"completion_tokens": len(ids), "cached_tokens": len(prompt) - 1}
        if body.get("return_logprob"):
            info["output_token_logprobs"] = [[-0.5, token, None] for token in ids]
        if start == 0:
            told = self.server.prompt_logprobs(prompt, k := body["top_logprobs_num"])
            pairs = [
                (None, None) if each is None else (each[str(token)]["logprob"], list(each.items())[:k])
                for each, token in zip(told, prompt, strict=True)
            ]
            info["input_token_logprobs"] = [[p, token, None] for (p, _), token in zip(pairs, prompt, strict=True)]
            info["input_top_logprobs"] = [
                None if top is None else [[each["logprob"], int(token), None] for token, each in top]
                for _, top in pairs
            ]
        return {"text": self.server.spoken(prompt, ids), "output_ids": ids, "meta_info": info}


class LlamaServer(Handler):
    """`prompt` of ids in; `tokens`, and the prompt as text, out."""

    def answer(self, body: dict[str, Any]) -> None:
        server, given = self.server, body["prompt"]
        if self.path != "/completion":
            return self.error(404, "File Not Found")
        prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        prompts = [server.tokenizer(each).input_ids if isinstance(each, str) else each for each in prompts]
        if len(prompts) > 1 and not server.batches:
            return self.error(400, "one text alone")
        if any(len(prompt) > LIMIT for prompt in prompts):
            return self.error(400, "the request exceeds the available context size, try increasing it")
        with server.lock:
            rows = [self.row(index, prompt, body) for index, prompt in enumerate(prompts)]
        return self.reply(200, server.change(rows if len(rows) > 1 else rows[0]))

    def row(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        ids, reason, stop = self.server.write(prompt, body["n_predict"], body.get("stop", []))
        row = {
            "index": index,
            "content": self.server.spoken(prompt, ids),
            "tokens": ids if body.get("return_tokens") else [],
            "model": NAME,
            "tokens_predicted": len(ids),
            "tokens_evaluated": len(prompt),
            "prompt": self.server.tokenizer.decode(prompt),
            "truncated": False,
            "stop_type": "limit" if reason == "length" else "word" if stop else "eos",
            "stopping_word": stop or "",
            "timings": {"cache_n": len(prompt) - 1},
        }
        if body.get("n_probs"):
            row["completion_probabilities"] = [{"id": token, "logprob": -0.5} for token in ids]
        return row


class FakeSglang(FakeVllm):
    """SGLang in place of vLLM."""

    handler, path = Sglang, "/generate"
    listing: ClassVar[dict[str, Any]] = {"id": NAME, "object": "model", "owned_by": "sglang", "max_model_len": LIMIT}


class FakeLlamaServer(FakeVllm):
    """llama-server in its place."""

    handler, path = LlamaServer, "/completion"
    listing: ClassVar[dict[str, Any]] = {
        "id": "big.gguf",
        "aliases": [NAME],
        "owned_by": "llamacpp",
        "meta": {"n_ctx": LIMIT},
    }
