"""What `wheels serve` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from wheels.config.fields import (
    attention_option,
    backend_option,
    check_fields,
    dtype_option,
    loading_of,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    threads_option,
    trust_option,
    weights_option,
)
from wheels.config.paths import PLACE, SETTINGS
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.methods.choices import METHODS, MODE_HELP, MODES
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.prices import Prices, check_prices
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError

pair_option = option_group("another pair")
default_option = option_group("where a request says nothing else")
limit_option = option_group("limits")


@dataclass(frozen=True)
class ServeConfig:
    """Settings of `wheels serve`.

    Raises:
        WheelsError: for a value that is not allowed, or an address that others reach without a key.
    """

    model: str | None = option(
        None, "folder of a trained model (default: the embedded pair)", metavar="DIR", reads=PLACE
    )
    student: str | None = pair_option(None, "folder or hub id of a student, in place of --model", reads=PLACE)
    teacher: str | None = pair_option(None, "folder or hub id of the teacher (default: the model's own)", reads=PLACE)
    name: str | None = option(None, "what clients call the model (default: the name of its folder)")
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on; 0: any that is free", minimum=0, maximum=65535)
    api_key_env: str | None = option(None, "environment variable with the key that clients must send", metavar="NAME")
    api_key_file: str | None = option(
        None, "file with that key, in place of a variable", metavar="FILE", reads=SETTINGS
    )
    method: str = default_option("deferral", "how the two models write together", choices=METHODS)
    teacher_budget: float | None = default_option(
        None, "share of tokens the teacher may write (default: 0.2)", share=True
    )
    budget_mode: str = default_option("average", MODE_HELP, choices=MODES)
    rule: str = default_option("learned", "what decides to call the teacher", choices=tuple(RULES))
    max_new_tokens: int = default_option(128, "longest output, in tokens", minimum=1)
    prices: tuple[str, ...] = option(
        (),
        "what the teacher's tokens cost, in dollars for a million, to count them: prompt=0.40,completion=1.60",
        check=check_prices,
    )
    longest_output: int = limit_option(2048, "longest output that a request may ask for, in tokens", minimum=1)
    longest_prompt: int = limit_option(
        4096, "longest prompt, in tokens; the context of the models where that is shorter", minimum=1
    )
    queue: int = limit_option(256, "texts that may wait for a place in the batch; beyond them: 429", minimum=0)
    body_limit: int = limit_option(1 << 20, "largest body of a request, in bytes", minimum=1024)
    engines: int = limit_option(
        4, "batches at a time: requests of one method, budget and sampling share one", minimum=1, maximum=64
    )
    stream_interval: float = limit_option(
        0.04, "seconds between two events of a stream at least: faster tokens go out together", minimum=0, maximum=10
    )
    batch_size: int = machine_option(64, "rows of a forward pass at most", minimum=1)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = dtype_option()
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    student_dtype: str | None = dtype_option("student")
    teacher_dtype: str | None = dtype_option("teacher")
    attn_implementation: str | None = attention_option()
    trust_remote_code: bool = trust_option()
    threads: int | None = threads_option()
    backend: str = backend_option()
    student_weights: str = weights_option("student")
    teacher_weights: str = weights_option("teacher")

    def __post_init__(self) -> None:
        """Check every value, and those that do not go together."""
        check_fields(self)
        if is_address(self.teacher):
            raise WheelsError(
                f"teacher {self.teacher!r} is an address, and a server waits for nobody; give the folder of a teacher, "
                "or use `wheels generate`"
            )
        assert self.default is not None  # checks what says how
        if self.price_list is not None and self.price_list.cached is not None:
            raise WheelsError("prices has cached, and a teacher that is here reads no token twice; leave cached out")
        if self.api_key_env is not None and self.api_key_file is not None:
            raise WheelsError("give the key by --api-key-env or --api-key-file, not by both")
        if not self.has_key and not is_loopback(self.host):
            raise WheelsError(
                f"others reach host {self.host!r}, so clients must send a key: give --api-key-env or --api-key-file, "
                "or listen on 127.0.0.1"
            )

    @property
    def default(self) -> GenerateConfig:
        """How a request is written that says nothing about it; refuses what does not go together."""
        return GenerateConfig(
            model=self.model,
            student=self.student,
            teacher=self.teacher,
            method=self.method,
            teacher_budget=self.teacher_budget,
            budget_mode=self.budget_mode,
            rule=self.rule,
            **loading_of(self),
            attn_implementation=self.attn_implementation,
            trust_remote_code=self.trust_remote_code,
            backend=self.backend,
        )

    @property
    def price_list(self) -> Prices | None:
        """What the teacher's tokens cost; None: nobody said."""
        return Prices.of(self.prices) if self.prices else None

    @property
    def has_key(self) -> bool:
        """Whether clients must send a key."""
        return self.api_key_env is not None or self.api_key_file is not None


def is_loopback(host: str) -> bool:
    """Tell whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
