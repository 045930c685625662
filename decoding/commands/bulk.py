"""`wheels generate` from a file into a file, or a shard of it: what is written stays, and the same command goes on.

Beside the output, in `OUTPUT.run`:

    run.json      which run it is, and the digest of the output when it is done (`wheels.runs.claim`)
    rows          the outputs so far, one a line (`wheels.runs.lines`); a table is made of them at the end
    ledger        what a remote teacher was paid, where that is limited and no other ledger is given

and `OUTPUT.lease` says what of these limits each shard may spend (`wheels.decoding.remote.lease`).

Outputs depend on their own text alone, so those that are missing are written as they would have been. In online mode
they depend on what was spent before: it is kept with the rows, after each part.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from wheels.config.parsing import to_dict
from wheels.data.conversations import Conversation
from wheels.decoding.commands.generate import (
    PART,
    count,
    generate,
    load_artefact,
    many,
    render,
    summed_up,
    within_memory,
)
from wheels.decoding.commands.generate_config import LIMITS, GenerateConfig
from wheels.decoding.commands.inputs import FileTexts
from wheels.decoding.commands.merge import is_finished, join_ranks, lease_place, run_folder
from wheels.decoding.commands.shards import Shard, take_rank
from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.rules import find_rule
from wheels.decoding.remote.lease import Lease
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import PICO
from wheels.decoding.render import Summary
from wheels.decoding.streaming import Spent
from wheels.errors import WheelsError
from wheels.files import open_output
from wheels.models.artefact import found_models
from wheels.models.loading import model_digest
from wheels.output.progress import Progress
from wheels.output.streams import remark, say
from wheels.runs import Lines, claim, digest_of, digests
from wheels.threads import set_threads

EVERY = 1.0
"""Seconds after which what was written is committed: about as much of it is lost by a kill."""
INCIDENTAL = (
    *("text", "output", "batch_size", "max_tokens_in_flight", "threads", "on_error", "engine", "actors"),
    *("teacher_key", "teacher_timeout", "teacher_attempts", "ledger", "write_on"),
)
"""Settings that a run may go on with other values of; in online and dollars mode the rows of a pass decide too."""
ROWS = ("batch_size", "max_tokens_in_flight")
"""What decides how many texts are decoded at once."""


def is_kept(config: GenerateConfig) -> bool:
    """Return whether what is written of a file is kept: where it goes into a file too, a line for each text."""
    if config.output is None or config.format == "html":
        return False
    place = Path(config.output)
    return place.is_file() or not place.exists()


def run(config: GenerateConfig, sources: FileTexts) -> None:
    """Write an output for each text of a file, or of a shard of it, that an earlier run did not come to."""
    output, identity, rank = Path(os.path.realpath(str(config.output))), identity_of(config), take_rank()
    if rank is not None:
        if config.shard is not None or config.engine == "ray":
            given = f"shard {config.shard}" if config.shard is not None else "engine 'ray'"
            raise WheelsError(f"processes that are started together share the rows by rank; leave out {given}")
        config = replace(config, shard=str(rank), device=_own_device(config.device))
        if is_finished(output, identity):
            remark(f"{config.output} is done already")
            return
        identity |= {"shard": config.shard}
    shard = Shard.of(config.shard or "1/1")
    place = output if config.shard is None else shard.place(output)
    lease = lease_of(config, shard, lease_place(output))
    used = _written(config, sources, shard, place, identity, lease)
    remark(summed_up(config, used))
    if rank is not None:
        join_ranks(output, identity | {"shard": None}, rank.count)


def _written(
    config: GenerateConfig,
    sources: FileTexts,
    shard: Shard,
    place: Path,
    identity: dict[str, Any],
    lease: Lease | None,
) -> Summary:
    """Write the rows of a shard, unless they are whole, and return what the teacher was used for."""
    folder, given = run_folder(place), Path(str(config.output))
    shown = given if config.shard is None else shard.place(given)
    rows, ledger = folder / "rows", folder / "ledger"
    advice = f"give another --output, or remove {folder}"
    kept = [Lines.note_of(rows), ledger]
    with claim(folder, "generate", config, identity, kept=lambda: any(map(Path.exists, kept)), advice=advice) as held:
        if held.finished:
            remark(f"{shown} is done already")
            return Summary(held.note["used"])
        lines, numbers = Lines(rows), shard.rows(len(sources))
        if lease is not None and lease.has_left and numbers and not lines.count:
            raise WheelsError(
                f"shard {shard} has ended by {lease.path}, and left what it had to others; remove that file to begin a "
                "new account"
            )
        used = _Job(_accounted(config, ledger, lease), sources, numbers, lines, lease).write()
        _publish(config, lines, place)
        held.note["used"] = used.state
        held.finish(place)
        lines.remove()
        ledger.unlink(missing_ok=True)
    remark(f"written to {shown}")
    return used


def _own_device(device: str) -> str:
    """Return the device of this process, of those that were started together on a machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _publish(config: GenerateConfig, lines: Lines, place: Path) -> None:
    """Make the result of the lines, as one file."""
    if config.format == "parquet":
        from wheels.decoding.commands import parquet  # on demand: pyarrow

        with lines.path.open("rb") as written:
            parquet.write(written, place)
        return
    with open_output(place) as file, lines.path.open("rb") as written:
        shutil.copyfileobj(written, file)


def identity_of(config: GenerateConfig) -> dict[str, Any]:
    """Return everything that the outputs depend on."""
    online = config.mode in ("online", PACED)
    settings = to_dict(config, [name for name in INCIDENTAL if not (online and name in ROWS)])
    settings["device"] = config.device.partition(":")[0]  # whichever of several alike
    settings["input_digest"] = digest_of(Path(str(config.input)))
    if config.student is not None:
        settings["student_digest"], teacher = model_digest(config.student), str(config.teacher)
    else:
        place, _, teacher = found_models(config.model, config.teacher_model if config.is_remote else config.teacher)
        settings["model_digest"] = [model_digest(place), digests(place / "deferral")]
    settings["teacher_digest"] = config.teacher_model if config.is_remote else model_digest(teacher)
    if code := find_rule(config.rule).code:
        settings["rule_digest"] = code
    return settings


def lease_of(config: GenerateConfig, shard: Shard, path: Path) -> Lease | None:
    """Return the lease of a shard where something is limited; None for a run of one part."""
    limits = {name: getattr(config, field) for name, field in LIMITS.items() if getattr(config, field) is not None}
    if not limits or shard.count == 1:
        return None
    if "dollars" in limits:
        limits["dollars"] = round(limits["dollars"] * PICO)
    return Lease(path, shard.number, shard.count, limits)


def _accounted(config: GenerateConfig, ledger: Path, lease: Lease | None) -> GenerateConfig:
    """Return the configuration with a ledger, where something is limited that a teacher at an address may cost.

    Under a lease the limits are those of the shard, for now.
    """
    if all(getattr(config, field) is None for field in LIMITS.values()):
        return config
    own: dict[str, Any] = {"ledger": config.ledger or str(ledger), "shard": None}
    for name, amount in ({} if lease is None else lease.held()).items():
        own[LIMITS[name]] = amount / PICO if name == "dollars" else amount
    return replace(config, **own)


class _Job:
    """The lines of a shard that are missing.

    Args:
        config: How they are written.
        sources: All texts of the file.
        numbers: Those of the shard.
        lines: What is written of them.
        lease: What may be spent, where shards share it.
    """

    def __init__(
        self, config: GenerateConfig, sources: FileTexts, numbers: range, lines: Lines, lease: Lease | None
    ) -> None:
        self.config, self.sources, self.numbers, self.lines, self.lease = config, sources, numbers, lines, lease
        self.done, self.online = lines.count, config.budget_mode == "online"
        self.used = Summary(lines.state.get("used"))
        self.spent: Spent = {budget: (calls, tokens) for budget, calls, tokens in lines.state.get("spent", [])}
        self.of_texts = {"conversations": isinstance(next(iter(sources)), Conversation), "one_line": len(sources) > 1}

    def write(self) -> Summary:
        """Write the lines, and return what the teacher was used for in all."""
        lines, said = self.lines, time.monotonic()
        if self.done:
            remark(f"{self.done:,} of {len(self.numbers):,} texts are written already")
        many_of_them = many(self.config, self.numbers)
        with Progress(len(self.numbers), "text", done=self.done, bar=many_of_them) as progress:
            written = self._over_ray(progress) if self.config.engine == "ray" else self._here(progress)
            try:
                for _ in written:
                    due = lines.count % PART == 0 if self.online else time.monotonic() - said >= EVERY
                    if due and lines.count > self.done:
                        self._commit()
                        said = time.monotonic()
            except BaseException:
                if not self.online and lines.count > self.done:
                    self._commit()
                raise
        return self.used

    def _here(self, progress: Progress) -> Iterator[None]:
        """Write by this process; yields before each line is added, and all is committed at the end."""
        config = self.config
        artefact = load_artefact(config, conversations=self.of_texts["conversations"])
        set_threads(config.threads, artefact.pair)
        config = within_memory(config, artefact, self.sources)
        if self.lease is not None and isinstance(artefact.pair, RemotePair):
            artefact.pair.remote.ledger.join(self.lease)
        left = {"first": self.numbers.start + self.done, "total": len(self.numbers) - self.done}
        with closing(artefact.pair):
            for trace in generate(config, artefact, self._texts(), spent=self.spent, **left):
                yield
                count(trace, self.used, progress)
                self.lines.append(render(config, trace, one_line=self.of_texts["one_line"]))
            self._commit()
            if isinstance(artefact.pair, RemotePair):
                artefact.pair.remote.ledger.leave()

    def _over_ray(self, progress: Progress) -> Iterator[None]:
        """Have all written by actors of Ray; yields before the lines of each block are added."""
        from wheels.decoding.commands.over_ray import blocks  # on demand: Ray

        first, total = self.numbers.start + self.done, len(self.numbers) - self.done
        for block in blocks(self.config, self._texts(), first, total, **self.of_texts):
            yield
            self.used.include(block.used)
            for error in block.errors:
                say(f"skipped: {error}")
            for line in block.lines:
                self.lines.append(line)
                progress.advance()
        self._commit()

    def _texts(self) -> Iterator[str]:
        """Yield the texts that are left."""
        return islice(iter(self.sources), self.numbers.start + self.done, self.numbers.stop)

    def _commit(self) -> None:
        told = [[budget, *counts] for budget, counts in self.spent.items()]
        self.lines.commit({"used": self.used.state, "spent": told})
