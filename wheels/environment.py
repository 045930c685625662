"""The machine and package versions, for results and bug reports (`wheels env`)."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import wheels
from wheels.output.visible import one_line
from wheels.threads import COUNTS, WAITING, usable_processors

DISTRIBUTION = "training-wheels"
"""The name that `pip` knows this package by."""
VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"),
    *(*COUNTS, *WAITING, "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "TOKENIZERS_PARALLELISM"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ENABLE_MPS_FALLBACK"),
    *("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "NO_COLOR"),
)
"""The variables of the environment that change what runs; none of them holds a secret."""
ENGINES = ("ctranslate2", "llama-cpp-python", "onnxruntime", "optimum", "vllm")
"""What runs the same models beside torch: a backend of ours, `onnxruntime`, and what users pick."""
GROUP = "/sys/fs/cgroup"
"""Where this process's control group keeps its limits, as a container sees them."""
FEATURES = re.compile("avx2|avx_vnni|avx512|fma|amx|asimd|bf16|sve|i8mm|f16c")
"""What of a processor decides which kernels run; its other features are shown by `--json` alone."""


def environment() -> dict[str, Any]:
    """Return versions, processor, threads, devices, memory, and the variables that change what runs."""
    known: dict[str, Any] = {
        "wheels": wheels.__version__,
        "folder": str(Path(wheels.__file__).parent),
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "platform": platform.platform(),
        "packages": packages(),
        "engines": engines(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "processor": {"name": processor_name(), "count": os.cpu_count(), "usable": usable_processors()},
        "memory_gib": memory(),
    }
    try:
        import torch
    except Exception as error:  # a broken installation is what some reports are about
        return known | {"torch": f"cannot be imported: {one_line(str(error))}"}
    known["processor"] |= kernels(torch)
    threads = {"torch": torch.get_num_threads(), "interop": torch.get_num_interop_threads()}
    return known | {"threads": threads, "devices": devices(torch)}


def packages() -> dict[str, str]:
    """Return the version of each required package, without extras; "missing" where it is not installed."""
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        from wheels.config.parsing import RECORDED

        required = list(RECORDED)
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    return {name: _version(name) for name in names}


def engines() -> dict[str, str]:
    """Return the versions of the engines beside torch that are installed."""
    return {name: found for name in ENGINES if (found := _version(name)) != "missing"}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def kernels(torch: Any) -> dict[str, Any]:
    """Return the kernels that torch uses on this processor, and the CPU features that decide."""
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    flags = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith(("flags", "Features"))), "")
    return {
        "kernels": torch.backends.cpu.get_cpu_capability(),
        # Older versions of torch do not tell; the system's names are nearly the same.
        "features": [name for name, there in told.items() if there is True] or flags.partition(":")[2].split(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "mkl": torch.backends.mkl.is_available(),
    }


def processor_name() -> str:
    """Return the name of the processor."""
    lines = _read("/proc/cpuinfo").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def devices(torch: Any) -> list[str]:
    """Return each device that a model could be put on, accelerators with their name and memory."""
    found = ["cpu"]
    if torch.cuda.is_available():
        runtime = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"HIP {torch.version.hip}"
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            found.append(f"cuda:{number} ({about.name}, {about.total_memory / 2**30:.1f} GiB, {runtime})")
    if torch.backends.mps.is_available():
        found.append("mps")
    if getattr(torch, "xpu", None) is not None and torch.xpu.is_available():
        found += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    return found


def memory() -> dict[str, float]:
    """Return the machine's memory in GiB: total, free, and the limit of this process's control group.

    Free is what neither the machine nor the group has in use; pages of files that can be dropped are free.
    """
    found = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, amount = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[{"MemTotal": "total", "MemAvailable": "available"}[name]] = int(amount.split()[0]) / 2**20
    limit, used = (_read(f"{GROUP}/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit():
        found["limit"] = int(limit) / 2**30
        if used.isdigit() and "available" in found:
            droppable = re.search(r"^inactive_file (\d+)$", _read(f"{GROUP}/memory.stat"), re.MULTILINE)
            left = (int(limit) - int(used) + (int(droppable[1]) if droppable else 0)) / 2**30
            found["available"] = min(found["available"], left)
    return {name: round(amount, 1) for name, amount in found.items()}


def _read(path: str) -> str:
    """Return the text of a system file, or "" without one."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts as lines of `name: value`, with only the CPU features that decide the kernels."""
    shown = dict(facts)
    features = [name for name in facts["processor"].get("features", []) if FEATURES.match(name)]
    shown["processor"] = facts["processor"] | ({"features": features} if "features" in facts["processor"] else {})
    return "\n".join(line for name, value in shown.items() for line in _lines(name, value))


def _lines(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}:", *(f"  {line}" for key, part in value.items() for line in _lines(key, part))]
    return [one_line(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")]
