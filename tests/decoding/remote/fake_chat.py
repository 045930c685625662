"""A chat on the loopback around a tiny causal model: messages in, text out."""

from typing import Any, ClassVar

from tests.decoding.remote.fake_vllm import LIMIT, NAME, FakeVllm, Handler
from wheels.endpoints.probe import BEGUN, COMPLETED

CONTINUES, ECHOES, ANEW = "continues", "echoes", "anew"
"""What becomes of an assistant's message at the end: it is continued, and may stand in the answer; or it is not."""


class Chat(Handler):
    """`/v1/chat/completions`; the model reads the messages one after the other."""

    server: "FakeChat"

    def answer(self, body: dict[str, Any]) -> None:
        server = self.server
        if unknown := [name for name in body if name in server.refuses]:
            return self.error(400, f"Unrecognized request argument supplied: {unknown[0]}")
        if self.path != "/v1/chat/completions" or body["model"] != NAME:
            return self.error(404, f"The model `{body['model']}` does not exist.")
        *asked, last = body["messages"]
        begun = last["role"] == "assistant"
        if begun and server.how is None:
            return self.error(400, "the last message must be the user's")
        if begun and server.how == ANEW:
            last = {"role": "assistant", "content": ""}
        text = "".join(message["content"] for message in [*asked, last])
        most = body.get("max_tokens", body.get("max_completion_tokens"))
        prompt = list(server.tokenizer(text).input_ids)
        with server.lock:
            ids, reason, _ = server.write(prompt[:LIMIT], most, [])
        said = server.spoken(prompt[:LIMIT], ids)
        if last["content"] == BEGUN:
            said = COMPLETED
        if begun and server.how == ECHOES:
            said = last["content"] + said
        usage = {"prompt_tokens": len(prompt) + 3, "completion_tokens": len(ids)}
        message = {"role": "assistant", "content": said}
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        answer = {"object": "chat.completion", "model": NAME, "choices": choices, "usage": usage}
        return self.reply(200, server.change(answer))


class FakeChat(FakeVllm):
    """A chat of nobody's in particular."""

    handler, path = Chat, "/v1/chat/completions"
    listing: ClassVar[dict[str, Any]] = {"id": NAME, "object": "model", "owned_by": "nobody"}

    def __init__(self, *args: Any, how: str | None = CONTINUES, refuses: tuple[str, ...] = (), **settings: Any) -> None:
        self.how, self.refuses = how, refuses
        super().__init__(*args, **settings)
