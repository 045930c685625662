"""What runs a model's forward passes: torch, ONNX Runtime where it knows the family, or llama.cpp from a GGUF file."""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, TypeVar

import torch
from transformers import PreTrainedModel

from wheels.config.fields import BACKENDS
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.registry import fast_decoder_for, forget_fast_decoder
from wheels.errors import WheelsError, check_choice
from wheels.models.in_file import gguf_file_of, leave_in_files
from wheels.policy.head import DeferralHead

if TYPE_CHECKING:
    from wheels.decoding.models.compiled.decoder import CompiledDecoder
    from wheels.decoding.models.llama_cpp import LlamaCppDecoder

Made = TypeVar("Made")

_chosen = "torch"
_compiled: weakref.WeakKeyDictionary[PreTrainedModel, dict[str, tuple[FastDecoder, int, CompiledDecoder | None]]] = (
    weakref.WeakKeyDictionary()
)
_heads: weakref.WeakKeyDictionary[DeferralHead, tuple[object, CompiledDecoder | None, FastDecoder]] = (
    weakref.WeakKeyDictionary()
)


def use_backend(name: str) -> None:
    """Choose what runs forward passes in runners that are made from now on in this process.

    Args:
        name: `torch`, which is what runs them unless chosen; `onnx`: ONNX Runtime; `auto`: whichever is faster for a
            model (`wheels.decoding.models.auto`); `llama.cpp`: llama.cpp runs the models of GGUF files that are loaded
            from now on, others run as with `auto`.

    Raises:
        WheelsError: where what is asked for is not installed.
    """
    global _chosen
    check_choice("backend", name, BACKENDS)
    if name == "llama.cpp" and importlib.util.find_spec("llama_cpp") is None:
        raise WheelsError(
            "backend 'llama.cpp' needs llama-cpp-python, which is not installed; run pip install "
            "'training-wheels[llama]', which compiles it, or take backend 'auto'"
        )
    if name == "onnx" and not is_installed():
        raise WheelsError(
            "backend 'onnx' needs ONNX Runtime, which is not installed; run pip install 'training-wheels[onnx]', or "
            "take backend 'torch'"
        )
    leave_in_files(name == "llama.cpp")
    _chosen = "auto" if name == "llama.cpp" else name


def backend_in_use() -> str:
    """Return the backend of models that it can run: `torch` or `onnx`."""
    return "onnx" if _chosen == "onnx" or (_chosen == "auto" and is_installed()) else "torch"


@cache
def is_installed() -> bool:
    """Tell whether passes can be compiled here."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def candidates(model: PreTrainedModel) -> list[str]:
    """Return the backends that may run a model, as far as can be told before it is tried."""
    if gguf_file_of(model) is not None:
        return ["llama.cpp"]
    if _chosen != "auto":
        return [_chosen]
    compiles = is_installed() and model.dtype == torch.float32 and model.device.type == "cpu"
    return ["torch", "onnx"] if compiles else ["torch"]


def decoder_for(
    model: PreTrainedModel,
    kind: str = "float32",
    backend: str | None = None,
    head: DeferralHead | None = None,
    vocab_size: int = 0,
) -> FastDecoder | CompiledDecoder | LlamaCppDecoder | None:
    """Return the decoder of `model` with its present weights; None where only the library can run it.

    That of a GGUF file whose weights stay there is llama.cpp's. A compiled one holds a copy of the weights, and uses as
    many threads as torch had when it was made.

    Args:
        model: Of the library.
        kind: What its weights become: `float32`, that is as they are, `int8` or `bfloat16`.
        backend: `torch` or `onnx`, which leaves to torch what it cannot run; None: as `use_backend` says.
        head: With its present weights it becomes a part of a compiled decoder (`CompiledDecoder.head`), if it can.
        vocab_size: Of the logits that it reads.

    Raises:
        WheelsError: where backend `onnx` was chosen and cannot run the model, and for other weights than a GGUF file's.
    """
    if (file := gguf_file_of(model)) is not None:
        if kind != "float32":
            raise WheelsError(
                f"the weights of {file.name} are as its file has them, got weights {kind!r}; leave that out"
            )
        from wheels.decoding.models.llama_cpp import llama_cpp_decoder

        return llama_cpp_decoder(model)
    fast = fast_decoder_for(model, kind)
    compiled = None
    if fast is not None and (backend or backend_in_use()) == "onnx":
        compiled = None if head is None else _with_head(fast, head, vocab_size)
        compiled = compiled or _compiled_of(model, fast, kind)
    if compiled is None and _chosen == "onnx":
        raise WheelsError(
            f"backend 'onnx' cannot run {type(model).__name__} as it is here: it runs known families of at most 250M "
            "weights in float32 or int8 on a CPU; take backend 'auto', which leaves other models to torch"
        )
    return compiled or fast


def forget(model: PreTrainedModel, choices: Iterable[tuple[str, str]]) -> None:
    """Free the decoders of a model for these backends and kinds of weights; a compiled one has torch's too."""
    choices, compiled = list(choices), _compiled.get(model, {})
    for _, kind in (each for each in choices if each[0] == "onnx"):
        compiled.pop(kind, None)
    for _, kind in (each for each in choices if each[0] == "torch" and each[1] not in compiled):
        forget_fast_decoder(model, kind)


def _compiled_of(model: PreTrainedModel, fast: FastDecoder, kind: str) -> CompiledDecoder | None:
    """Return the compiled form of a fast decoder, made once; None where there is none."""
    if not _can_compile(fast):
        return None
    kinds = _compiled.setdefault(model, {})
    made_of, made_with, made = kinds.get(kind, (None, 0, None))
    if made_of is not fast or made_with != torch.get_num_threads():
        from wheels.decoding.models.compiled.decoder import CompiledDecoder

        made = _if_supported(partial(CompiledDecoder, fast))
        kinds[kind] = (fast, torch.get_num_threads(), made)
    return made


def _with_head(fast: FastDecoder, head: DeferralHead, vocab_size: int) -> CompiledDecoder | None:
    """Return the compiled form of a fast decoder and of a head with its present weights; None where there is none."""
    if not _can_compile(fast):
        return None
    version = sum([weight._version for weight in (*head.parameters(), *head.buffers())])
    stamp = (id(fast), vocab_size, torch.get_num_threads(), version)
    made_of, made, _ = _heads.get(head, (None, None, fast))
    if made_of != stamp:
        from wheels.decoding.models.compiled.decoder import CompiledDecoder
        from wheels.decoding.models.compiled.score import HeadWriter

        # A copy: what is kept for a head must not keep the head.
        write = partial(HeadWriter, head=head.frozen_copy(), vocab_size=vocab_size)
        made = _if_supported(partial(CompiledDecoder, fast, write))
        _heads[head] = (stamp, made, fast)
    return made


def _can_compile(fast: FastDecoder) -> bool:
    """Tell whether a decoder's weights are such as compiled passes read."""
    weight = fast.embedding.token_VD
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _if_supported(make: Callable[[], Made]) -> Made | None:
    """Return what is compiled; None where a part of it has no operator."""
    from wheels.decoding.models.compiled.graph import Unsupported

    try:
        return make()
    except Unsupported:
        return None
