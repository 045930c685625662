"""A real vLLM and a real llama-server on this machine's processor: the very tokens of the teacher at hand.

Neither is a dependency, so these are left out unless the environment names them:

    WHEELS_VLLM=BIN/vllm WHEELS_LLAMA_SERVER=BIN/llama-server pytest tests/decoding/remote/test_real_servers.py
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.models.packed import VOCABULARY, gguf_of, word_tokenizer
from wheels.decoding.methods.method import deferral, teacher_only
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode
from wheels.decoding.teacher_forcing import teacher_logits
from wheels.endpoints.scoring import scores_of
from wheels.errors import WheelsError
from wheels.models.pair import Pair

pytestmark = pytest.mark.slow

NAME, LIMIT, START = "big", 256, 600.0
TEXTS = ["a b c", "d", "a a d c b a", "c b", "b"]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Of the chats: the messages, one after the other."""
COMMANDS = {
    "vllm": ["{program}", "serve", "{model}", "--served-model-name", NAME, "--dtype", "float32", "--max-model-len",
             str(LIMIT), "--chat-template", TEMPLATE, "--enforce-eager", "--max-logprobs", "20", "--host", "127.0.0.1",
             "--port", "{port}"],
    "llama-server": ["{program}", "-m", "{model}", "--alias", NAME, "-c", str(4 * LIMIT), "-np", "4", "-ctk", "f32",
                     "-ctv", "f32", "-fa", "off", "--jinja", "--chat-template", TEMPLATE, "--host", "127.0.0.1",
                     "--port", "{port}"],
}  # fmt: skip
PROGRAMS = {"vllm": "WHEELS_VLLM", "llama-server": "WHEELS_LLAMA_SERVER"}
PATHS = {"vllm": "/v1", "llama-server": "/completion"}


def never_written() -> list[int]:
    """Those first tokens of which llama.cpp takes some for an end, by their names, and what is no letter."""
    tokenizer = word_tokenizer()
    texts = {token: str(tokenizer.decode([token])).strip() for token in range(4, VOCABULARY - 1)}
    return [*range(4), *(token for token, text in texts.items() if not (text.isascii() and text.isalnum()))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student and a teacher in llama.cpp's format, and the teacher as vLLM reads it."""
    pytest.importorskip("gguf")
    folder, made = tmp_path_factory.mktemp("real"), {}
    for name, (width, layers) in {"student": (16, 1), "teacher": (128, 2)}.items():  # vLLM's heads have 64 at least
        torch.manual_seed(width)
        config = Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=LIMIT, rms_norm_eps=1e-6,
            tie_word_embeddings=False, initializer_range=0.3,
        )  # fmt: skip
        made[name], model = folder / f"{name}.gguf", Qwen2ForCausalLM(config)
        model.lm_head.weight.data[never_written()] = 0.0
        gguf_of(model, made[name])
    pair = Pair.load(made["student"], made["teacher"])
    pair.teacher.save_pretrained(folder / "vllm")
    pair.tokenizer.save_pretrained(folder / "vllm")
    return made | {"vllm": folder / "vllm", "llama-server": made["teacher"]}


@pytest.fixture(scope="module")
def pair(files: dict[str, Path]) -> Pair:
    return Pair.load(files["student"], files["teacher"])


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: Any, files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """The kind of a server that runs, and its address."""
    kind = request.param
    if not (program := os.environ.get(PROGRAMS[kind])):
        pytest.skip(f"{PROGRAMS[kind]} names no {kind}")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"program": program, "model": str(files[kind]), "port": str(port)}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    log = files["vllm"].parent / "server.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [part if part is TEMPLATE else part.format(**told) for part in COMMANDS[kind]],
            stdout=output,
            stderr=output,
            env=own,
        ) as run,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}", run, log)
            yield kind, f"http://127.0.0.1:{port}{PATHS[kind]}"
        finally:
            run.terminate()


def wait_for(url: str, run: Any, log: Path) -> None:
    """Return once a server is there, and has written a token: what it compiles for the first one takes long."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        assert run.poll() is None, log.read_text()[-2000:]
        try:
            if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                body = {"model": NAME, "prompt": [5, 6], "max_tokens": 1}
                httpx2.post(f"{url}/v1/completions", json=body, timeout=START, trust_env=False)
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


def far(pair: Pair, server: tuple[str, str], **settings: Any) -> RemotePair:
    teacher = RemoteTeacher(server[1], NAME, timeout=120.0, on_error="stop", **settings)
    return RemotePair(pair.student, teacher, pair.tokenizer)


@pytest.mark.parametrize("span", ["tokens:1", "tokens:5"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_every_token_is_that_of_the_teacher_at_hand(pair, server, batch_size, span):
    there = far(pair, server, span=span)
    assert there.probe.batches and there.probe.limit == LIMIT and there.probe.log_probs
    for method, budget in ((teacher_only(), 1.0), (deferral(RULES["margin"].at(-0.3)), None)):
        if budget is None and span != "tokens:1":
            continue
        params = DecodeParams(max_new_tokens=24)
        own, found = (decode(each, TEXTS, method, params, batch_size=batch_size) for each in (pair, there))
        assert [each.token_ids for each in found] == [each.token_ids for each in own]
        assert len({each.token_ids for each in own}) > 2 and sum(each.teacher_passes for each in found) > 5


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_teacher_of_text_writes_what_the_teacher_at_hand_does(pair, server, path):
    address = f"{server[1].rpartition('/')[0]}{path}"
    params, texts = DecodeParams(max_new_tokens=24), [text for text in TEXTS if len(text) > 1]
    own = [trace.text for trace in decode(pair, texts, teacher_only(), params)]
    for span in ("tokens:24", "tokens:5"):
        there = far(pair, (server[0], address), span=span)
        if not there.by_text:
            assert (server[0], path) == ("vllm", "/v1/completions")
            return
        assert there.probe.continues and there.probe.echoes == (server[0] == "llama-server" and "chat" in path)
        found = decode(there, texts, teacher_only(), params, batch_size=4)
        assert not any(trace.degraded for trace in found)
        assert [trace.text for trace in found] == own or span == "tokens:5"
        read, wrote = (sum(trace.own_tokens[place] for trace in found) for place in (0, 1))
        assert read > 0 and wrote >= sum(trace.tokens for trace in found) - len(found)
    third = Rule("third", score=lambda step: (step.position_B % 3 == 1).double()).at(0.5)
    mixed = decode(there, texts, deferral(third), params, batch_size=4)
    assert {author for trace in mixed for author in trace.authors} == {"student", "teacher"}


def test_draws_follow_the_seed(pair, server):
    params = DecodeParams(max_new_tokens=12, sampling=Sampling(1.0, top_p=0.9, top_k=20), seed=3)
    runs = [decode(far(pair, server), TEXTS, teacher_only(), params, batch_size=1) for _ in range(2)]
    assert [each.token_ids for each in runs[0]] == [each.token_ids for each in runs[1]]
    other = decode(far(pair, server), TEXTS, teacher_only(), DecodeParams(max_new_tokens=12), batch_size=1)
    assert [each.token_ids for each in other] != [each.token_ids for each in runs[0]]


def test_scores_are_those_of_the_teacher_at_hand(pair, server):
    there, sources, texts = far(pair, server), pair.encode(TEXTS), [[7, 9, 30], [8], [9, 4, 4], [70], [5, 6, 7, 8]]
    if server[0] == "llama-server":
        with pytest.raises(WheelsError, match="gives no log-probabilities of a prompt"):
            there.scoring.score(sources, texts, 8)
        return
    read = dict(teacher_logits(pair, sources, texts, 1))
    for place, found in enumerate(there.scoring.score(sources, texts, 8)):
        own = scores_of(read[place], texts[place], 8)
        assert torch.equal(found.ids_TK, own.ids_TK)
        torch.testing.assert_close(found.log_p_TK, own.log_p_TK, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.log_p_token_T, own.log_p_token_T, rtol=0, atol=1e-4)


def test_another_name_is_refused(pair, server):
    with pytest.raises(WheelsError, match="is 'bigg' its name"):
        RemotePair(pair.student, RemoteTeacher(server[1], "bigg", timeout=120.0), pair.tokenizer)
