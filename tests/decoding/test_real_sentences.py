"""1,000 real sentences, every family and batch size, against transformers' own `generate`: minutes, so only on request.

`WHEELS_SLOW=1 pytest tests/decoding/test_real_sentences.py`, with the data sets beside the checkout.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.decoding.test_engine import p_value
from tests.decoding.test_speculative_law import redraws_from_p
from tests.decoding.tiny import restless, write
from wheels.benchmarks.speed.hf_systems import until_end
from wheels.decoding.methods.method import Method, prompt_lookup, speculative
from wheels.decoding.methods.verify import Speculative
from wheels.decoding.sampling import Sampling
from wheels.distillation.collate import pad_with_mask
from wheels.models.loading import load_tokenizer
from wheels.models.pair import Pair

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DATA, TRAINED = SHARED / "data" / "multi30k_de_en" / "test.jsonl", SHARED / "models" / "multi30k_de_en"
SENTENCES, LIMIT, AT_ONCE = 1000, 24, 50

pytestmark = [
    pytest.mark.skipif(not os.environ.get("WHEELS_SLOW"), reason="takes minutes; set WHEELS_SLOW=1"),
    pytest.mark.skipif(not DATA.exists(), reason="the data sets do not stand beside the checkout"),
]


def configured(family: str, width: int, vocabulary: int) -> PreTrainedModel:
    """Return a model of random weights in float32, whose texts differ from sentence to sentence."""
    import transformers as library

    # Weights of random models hold for one layer's width; the scores' spread is what makes a text lively.
    common = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    causal = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4,
              "max_position_embeddings": 128, "initializer_range": 0.2}  # fmt: skip
    seq2seq = {"d_model": width, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
               "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.2,
               "max_position_embeddings": 128, "decoder_start_token_id": 0, "forced_eos_token_id": None}  # fmt: skip
    gpt2 = {"n_embd": width, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
    make = {
        "llama": lambda: library.LlamaForCausalLM(library.LlamaConfig(**common, **causal)),
        "qwen3": lambda: library.Qwen3ForCausalLM(
            library.Qwen3Config(**common, **causal, head_dim=16, num_key_value_heads=2)
        ),
        "gpt2": lambda: library.GPT2LMHeadModel(library.GPT2Config(**common, **gpt2)),
        "marian": lambda: library.MarianMTModel(library.MarianConfig(**common, **seq2seq)),
        "bart": lambda: library.BartForConditionalGeneration(library.BartConfig(**common, **seq2seq)),
    }
    model = restless(make[family]()).eval()
    model.generation_config.forced_eos_token_id = model.generation_config.forced_bos_token_id = None
    return model


def make_pair(family: str) -> Pair:
    """Return the trained pair for T5, else a random teacher, and for a student the teacher with some noise."""
    if family == "t5":
        return Pair.load(TRAINED / "student", TRAINED / "teacher")
    tokenizer = load_tokenizer(TRAINED / "teacher")
    torch.manual_seed(0)
    teacher = configured(family, 64, len(tokenizer))
    torch.manual_seed(0)
    student = configured(family, 64, len(tokenizer))
    for weight in student.parameters():
        weight.data += 0.02 * weight.std() * torch.randn_like(weight)
    return Pair.of(student, teacher, tokenizer)


def own(pair: Pair, sources: list[str]) -> list[tuple[int, ...]]:
    """Return what the teacher's own `generate` writes, in padded batches."""
    found: list[tuple[int, ...]] = []
    for start in range(0, len(sources), AT_ONCE):
        rows = pair.encode(sources[start : start + AT_ONCE])
        ids_RS, seen_RS = pad_with_mask(rows, pair.pad_id, left=not pair.is_seq2seq)
        written = pair.teacher.generate(
            input_ids=ids_RS, attention_mask=seen_RS, max_new_tokens=LIMIT, do_sample=False, pad_token_id=pair.pad_id
        )
        begin = len(pair.start_ids) or ids_RS.shape[1]
        found += [until_end(row, pair.eos_ids) for row in written[:, begin:].tolist()]
    return found


def differing(pair: Pair, sources: list[str], method: Method, batch_size: int) -> tuple[int, float]:
    """Return how many texts differ from the teacher's own, and the acceptance."""
    traces = write(pair, sources, method, budget=None, batch_size=batch_size, max_new_tokens=LIMIT)
    expected = own(pair, sources)
    wrong = sum(trace.token_ids != tokens for trace, tokens in zip(traces, expected, strict=True))
    return wrong, sum(trace.accepted for trace in traces) / max(1, sum(trace.checked for trace in traces))


@pytest.mark.parametrize("batch_size", [1, 8, 32])
@pytest.mark.parametrize("family", ["t5", "llama", "qwen3", "gpt2", "marian", "bart"])
def test_speculation_is_the_teachers_own_generate_on_real_sentences(family, batch_size):
    sources = [json.loads(line)["source"] for line in DATA.read_text().splitlines()][:SENTENCES]
    assert len(sources) == SENTENCES
    pair = make_pair(family)
    for method in (speculative(4), prompt_lookup(4)):
        wrong, acceptance = differing(pair, sources, method, batch_size)
        print(
            f"{family}, batch {batch_size}, {method.name}: {wrong} of {SENTENCES} differ, acceptance {acceptance:.2f}"
        )
        assert wrong == 0
        assert method.lookup or 0.1 < acceptance < 1, "nothing was at stake"


FIRSTS, DRAWS, TEMPERATURE = 12, 4000, 2.0
"""First tokens that are told apart, texts that are drawn, and what makes the laws wide enough to tell rules apart."""


@torch.no_grad()
def pair_law(pair: Pair, source: str) -> tuple[list[int], torch.Tensor]:
    """Return the likeliest first tokens, and the teacher's law of (one of these, the next token), and of the rest."""
    ids = torch.tensor(pair.encode([source]))
    start = torch.tensor([list(pair.start_ids)])
    first_V = pair.teacher(input_ids=ids, decoder_input_ids=start).logits[0, -1].double().div(TEMPERATURE).softmax(-1)
    firsts = first_V.topk(FIRSTS).indices
    texts = torch.cat([start.expand(FIRSTS, -1), firsts[:, None]], 1)
    logits_FV = pair.teacher(input_ids=ids.expand(FIRSTS, -1), decoder_input_ids=texts).logits[:, -1]
    law_FV = first_V[firsts][:, None] * (logits_FV.double() / TEMPERATURE).softmax(-1)
    return firsts.tolist(), torch.cat([law_FV.flatten(), 1.0 - law_FV.sum()[None]])


def chance(pair: Pair, source: str) -> float:
    """Return how likely so large a deviation from the teacher's law is by chance, over two sampled tokens."""
    firsts, law = pair_law(pair, source)
    traces = write(
        pair,
        [source] * DRAWS,
        speculative(2),
        sampling=Sampling(TEMPERATURE),
        budget=None,
        max_new_tokens=3,
        batch_size=64,
    )
    counts = torch.zeros_like(law)
    for trace in traces:
        first, second = trace.token_ids[:2] if len(trace.token_ids) > 1 else (-1, 0)
        counts[firsts.index(first) * pair.vocab_size + second if first in firsts else -1] += 1
    return p_value(counts, law)


def test_sampled_speculation_follows_the_law_of_a_trained_teacher(monkeypatch):
    """Chi-square on the trained pair, and on the same with a wrong acceptance rule."""
    pair, source = make_pair("t5"), json.loads(DATA.read_text().splitlines()[0])["source"]
    right = chance(pair, source)
    monkeypatch.setattr(Speculative, "__call__", redraws_from_p)
    wrong = chance(pair, source)
    print(f"p-value {right:.3f}, and {wrong:.1e} with a wrong rule")
    assert right > 0.001 and wrong < 1e-6
