"""A trained model on disk: the student's ordinary folder, with `deferral/` next to its weights.

DIR/                     student and tokenizer, as `save_pretrained` leaves them: plain tools load it
DIR/deferral/config.json what was trained, and where the teacher is
DIR/deferral/model.safetensors   the heads: `<rule>.<seed>.<parameter>`
DIR/deferral/spans.safetensors   what spans gain, where that was trained: `<seed>.<parameter>`
DIR/deferral/calibration.json    thresholds by budget
DIR/teacher/             the teacher, where it travels along
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

import wheels
from wheels.data.prompts import Prompt
from wheels.distillation.run_folder import noted_prompt
from wheels.errors import WheelsError
from wheels.files import read_object, write_bytes, write_json
from wheels.finite import not_finite, plain_parts
from wheels.models.fetch import model_folder
from wheels.models.in_file import gguf_file_of
from wheels.models.loading import AUTO, model_digest
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration
from wheels.policy.head import DeferralHead, HeadConfig
from wheels.policy.span_head import SpanHead

FORMAT = 1
SPANS = "spans.safetensors"
EMBEDDED = "embedded-translation"
LoadPair = Callable[..., Pair]
"""Reads a pair, as `Pair.load` does and with its arguments."""
SAYS_NOTHING = ("_name_or_path", "transformers_version")
"""What a configuration holds beside what decides a model's outputs."""


def embedded_folder() -> Path:
    """Return the folder of the embedded pair."""
    return Path(str(resources.files("wheels"))) / "assets" / EMBEDDED


@dataclass
class Artefact:
    """A student that knows when to call, its teacher, and its calibration."""

    pair: Pair
    heads: dict[str, list[DeferralHead]]
    """The trained heads by rule (`learned`, `regret`, and baselines where trained), one for each seed."""
    calibration: Calibration
    config: dict[str, Any] = field(default_factory=dict)
    """How it was trained."""
    student_name: str = ""
    teacher_name: str = ""
    folder: Path | None = None
    """Where it was read."""
    spans: list[SpanHead] = field(default_factory=list)
    """What spans gain (`wheels train --spans`), one for each seed."""

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        *,
        teacher: str | None = None,
        dtype: str = AUTO,
        load_pair: LoadPair = Pair.load,
        **settings: Any,
    ) -> Artefact:
        """Load a trained model; without a folder, the embedded pair.

        Args:
            folder: what `wheels train` wrote, or `owner/name@revision` of the Hub, where it was pushed to.
            teacher: the teacher's folder or hub id, if not the one that the folder names.
            dtype: in which number format; `auto`: that of the thresholds, else what each model is stored in.
            load_pair: reads the pair, where its teacher is not in a folder.
            settings: further ones of it.

        Raises:
            WheelsError: where something is missing or damaged: names it, and says what to do.
        """
        place, config, source = found_models(folder, teacher)
        prompt = Prompt.of(config["prompt"])
        calibration = Calibration.load(place / "deferral" / "calibration.json")
        if dtype == AUTO:
            dtype = str(calibration.config.get("dtype", AUTO))
        pair = load_pair(place, source, prompt=prompt, dtype=dtype, **settings)
        heads = pair_heads(place, HeadConfig(**config["head"]), pair)
        names = (_short_name(place) if folder is not None else EMBEDDED, _short_name(source))
        return cls(pair, heads, calibration, config, *names, place, read_spans(place / "deferral" / SPANS, pair.device))

    @classmethod
    def untrained(
        cls,
        student: str,
        teacher: str,
        *,
        dtype: str = AUTO,
        load_pair: LoadPair = Pair.load,
        **settings: Any,
    ) -> Artefact:
        """Pair a student and a teacher without trained rules: no heads, no thresholds.

        Args:
            student: folder or hub id.
            teacher: the same.
            dtype: in which number format; `auto`: what each model is stored in.
            load_pair: reads the pair, where its teacher is not in a folder.
            settings: further ones of it.

        Raises:
            WheelsError: as `Pair.load`.
        """
        pair = load_pair(student, teacher, prompt=noted_prompt(student), dtype=dtype, **settings)
        return cls(pair, {}, Calibration(), student_name=_short_name(student), teacher_name=_short_name(teacher))

    @classmethod
    def of_student(cls, student: str | Path | None, teacher: str | None, **settings: Any) -> Artefact:
        """Load a student with what it was trained to, or, where it was not and a teacher is given, without.

        Args:
            student: as the folder of `load`, or the student of `untrained`.
            teacher: as in `load`; a student that was not trained needs it.
            settings: as `load` takes them.

        Raises:
            WheelsError: as `load`.
        """
        if student is None or teacher is None or (model_folder(student) / "deferral" / "config.json").is_file():
            return cls.load(student, teacher=teacher, **settings)
        return cls.untrained(str(student), teacher, **settings)

    def head(self, rule: str, seed: int = 0) -> DeferralHead:
        """Return a trained head.

        Raises:
            WheelsError: where none of that seed was trained.
        """
        heads = self.heads.get(rule, [])
        if seed >= len(heads):
            have, other = (f"seeds 0 to {len(heads) - 1}", "seed") if heads else ("none", "rule")
            raise WheelsError(
                f"rule {rule!r} has no trained head of seed {seed} (trained: {have}); give another {other}"
            )
        return heads[seed]

    def price(self, rule: str, budget: float, seed: int = 0) -> float | None:
        """Return the price that the agent learned for a budget, nats per call: where its gate calls, uncalibrated.

        Linear between the budgets that it was trained for; None for another rule, or a budget beyond them.
        """
        trained = self.config.get("trained", {})
        budgets, prices = trained.get("budgets", []), trained.get("prices", [])
        if rule != "learned" or seed >= len(prices) or not budgets or not budgets[0] <= budget <= budgets[-1]:
            return None
        return float(np.interp(budget, budgets, prices[seed]))

    @property
    def digest(self) -> str:
        """The digest of both models' weights and configurations, and of the vocabulary."""
        total = hashlib.sha256(repr(sorted(self.pair.tokenizer.get_vocab().items())).encode())
        for model in self.pair.models:
            place = gguf_file_of(model) or model.config.name_or_path
            total.update(_digest(model.state_dict(), str(place)).encode())
            for config in (model.config, model.generation_config):
                told = {name: value for name, value in config.to_dict().items() if name not in SAYS_NOTHING}
                total.update(json.dumps(told, sort_keys=True, default=str).encode())
        total.update(self.pair.signature.encode())
        return total.hexdigest()[:16]

    def head_digest(self, rule: str, seed: int) -> str:
        """The digest of the head that `rule` uses; "" for a rule without one."""
        heads = self.heads.get(rule, [])
        return _digest(heads[seed].state_dict()) if seed < len(heads) else ""


def found_models(folder: str | Path | None, teacher: str | None) -> tuple[Path, dict[str, Any], str]:
    """Return a trained model's folder, what `deferral/config.json` says, and the folder or hub id of its teacher.

    Args:
        folder: what `wheels train` wrote, or where it was pushed to; None: the embedded pair.
        teacher: in place of the one that the folder names.

    Raises:
        WheelsError: where something is missing or damaged.
    """
    place = model_folder(folder) if folder is not None else embedded_folder()
    if folder is None and not place.is_dir():
        raise WheelsError("the embedded pair is not in this installation; give a model's folder by --model DIR")
    config = check_model(place)
    return place, config, teacher or _teacher_of(place, config)


def save_deferral(
    folder: Path,
    heads: Mapping[str, list[DeferralHead]],
    *,
    teacher: str,
    prompt: Prompt | str,
    trained: Mapping[str, Any],
    spans: Sequence[SpanHead] = (),
) -> None:
    """Write `folder/deferral/` next to the student in `folder`; an older calibration there is dropped.

    Args:
        folder: the student's folder.
        heads: the trained heads by rule, one for each seed.
        teacher: its folder (relative to `folder`, or absolute) or hub id.
        prompt: what the models read of a source.
        trained: how it was trained: settings, prices.
        spans: what spans gain, one for each seed.
    """
    first = next(iter(heads.values()))[0]
    place = folder / "deferral"
    (place / "calibration.json").unlink(missing_ok=True)
    tensors = {name: value for rule, seeds in heads.items() for name, value in _by_seed(seeds, f"{rule}.").items()}
    write_bytes(place / "model.safetensors", save_tensors(tensors))
    (place / SPANS).unlink(missing_ok=True)
    if spans:
        write_bytes(place / SPANS, save_tensors(_by_seed(spans)))
    config = {
        "format": FORMAT,
        "wheels": wheels.__version__,
        "teacher": teacher,
        "prompt": Prompt.of(prompt).noted,
        "head": asdict(first.config),
        "trained": dict(trained),
    }
    write_json(place / "config.json", config)


def pair_heads(folder: Path, config: HeadConfig, pair: Pair) -> dict[str, list[DeferralHead]]:
    """Return the heads of a trained model's folder, on the device of the pair.

    Raises:
        WheelsError: as `read_heads`, and where they know another vocabulary.
    """
    if config.vocab_size not in (0, pair.vocab_size):
        raise WheelsError(
            f"{folder}: its heads were trained for a vocabulary of {config.vocab_size} tokens, and this pair has "
            f"{pair.vocab_size}; give the teacher that it was trained with"
        )
    heads = read_heads(folder / "deferral" / "model.safetensors", config)
    return {rule: [head.to(pair.device) for head in seeds] for rule, seeds in heads.items()}


def read_heads(path: Path, config: HeadConfig) -> dict[str, list[DeferralHead]]:
    """Return the heads of `deferral/model.safetensors`, by rule, in the order of their seeds.

    Raises:
        WheelsError: where the file is missing or does not fit the configuration.
    """
    try:
        tensors = load_tensors(path.read_bytes())
        keys = sorted({(name.split(".")[0], int(name.split(".")[1])) for name in tensors})
        heads: dict[str, list[DeferralHead]] = {}
        for rule, seed in keys:
            head = DeferralHead(config)
            _fill(head, tensors, f"{rule}.{seed}.")
            heads.setdefault(rule, []).append(head)
        return heads
    except OSError as error:
        raise WheelsError(f"cannot read {path}: {error.strerror or error}; train again") from error
    except Exception as error:
        raise WheelsError(f"{path}: damaged or of another shape ({str(error).splitlines()[0]}); train again") from error


def read_spans(path: Path, device: torch.device) -> list[SpanHead]:
    """Return the span heads of a model, in the order of their seeds; none where it was not trained for spans.

    Raises:
        WheelsError: where the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        tensors = load_tensors(path.read_bytes())
        heads: list[SpanHead] = []
        while f"{len(heads)}.spans_K" in tensors:
            prefix = f"{len(heads)}."
            head = SpanHead(tensors[f"{prefix}spans_K"].tolist())
            _fill(head, tensors, prefix)
            heads.append(head.to(device))
        return heads
    except Exception as error:
        raise WheelsError(f"{path}: damaged or of another shape ({str(error).splitlines()[0]}); train again") from error


def _fill(head: nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Give a head its stored tensors, those whose names begin so; it is frozen.

    Raises:
        WheelsError: where a number is not finite.
    """
    head.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    if (bad := not_finite(head)) is not None:
        raise WheelsError(f"{prefix}{bad} is no finite number")
    head.requires_grad_(False).eval()


def _by_seed(heads: Sequence[nn.Module], prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of heads, one for each seed, as they are stored."""
    return {
        f"{prefix}{seed}.{name}": value.detach().cpu().contiguous()
        for seed, head in enumerate(heads)
        for name, value in head.state_dict().items()
    }


def forget_places(folder: Path, teacher: str) -> None:
    """Leave the folders of this machine out of a trained model that goes to others.

    Args:
        folder: of the model.
        teacher: where others find it: a folder within `folder`, or a hub id.
    """
    path, found = (folder / "deferral" / name for name in ("config.json", "calibration.json"))
    settings = read_object(path) | {"teacher": teacher}
    settings.get("trained", {}).get("settings", {}).update(student=".", teacher=teacher, output=".")
    write_json(path, settings)
    if found.is_file():
        calibration = read_object(found)
        config = calibration.get("config", {})
        given = {name: Path(str(config[name])).name for name in ("data", "teacher") if config.get(name)}
        config.update({"model": "."} | given)
        write_json(found, calibration)


def check_model(folder: Path) -> dict[str, Any]:
    """Return the content of `deferral/config.json` in a trained model's folder.

    Raises:
        WheelsError: where there is none, or it is damaged.
    """
    path = folder / "deferral" / "config.json"
    if not folder.is_dir():
        raise WheelsError(f"no model folder {str(folder)!r}; give what `wheels train --output` wrote")
    if not path.is_file():
        raise WheelsError(f"{folder} has no deferral/config.json; give what `wheels train --output` wrote")
    config = read_object(path)
    if config.get("format") != FORMAT:
        raise WheelsError(f"{path}: not of format {FORMAT}; train again with this version")
    kinds: dict[str, Any] = {"teacher": str, "prompt": (str, dict), "head": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
    # Older heads know of no tokens: what is missing has its default.
    if wrong or not {"features", "width"} <= set(config["head"]) <= {entry.name for entry in fields(HeadConfig)}:
        raise WheelsError(f"{path}: damaged at {wrong[0] if wrong else 'head'!r}; train again")
    return config


def _short_name(place: str | Path) -> str:
    """Return a short name of a model: its folder, with the parent of a folder such as `student`."""
    path = Path(place).resolve() if Path(place).is_dir() else Path(place)
    return f"{path.parent.name}/{path.name}" if path.name in ("student", "teacher", "model") else path.name


def _teacher_of(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the teacher's location: a path relative to the model's folder, or a hub id."""
    name = str(config["teacher"])
    local = folder / name
    if not local.is_dir() and (name == "teacher" or name.startswith((".", "/"))):
        raise WheelsError(f"the teacher of {folder} is not at {str(local)!r}; say where it is by --teacher")
    return str(local) if local.is_dir() else name


def _digest(tensors: Mapping[str, torch.Tensor], name: str = "") -> str:
    """Return the digest of named tensors; of a model whose weights are partly on disk, that of its place `name`."""
    if any(tensor.is_meta for tensor in tensors.values()):
        return model_digest(name)
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        for part in plain_parts(tensors[name].detach()):
            total.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
