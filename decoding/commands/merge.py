"""`wheels merge`: the outputs of all shards in one file, in the order of their rows."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wheels.decoding.commands.merge_config import MergeConfig
from wheels.decoding.commands.shards import Shard, all_shards
from wheels.decoding.render import Summary
from wheels.errors import WheelsError
from wheels.files import open_output
from wheels.output.streams import remark
from wheels.runs import Held, Run, check_same_run, claim, find, note_in

Identity = dict[str, Any]


def run_folder(place: Path) -> Path:
    """Return the folder that keeps what is known of a file of outputs."""
    return place.with_name(f"{place.name}.run")


def lease_place(output: Path) -> Path:
    """Return the file that says what each shard of an output may spend."""
    return output.with_name(f"{output.name}.lease")


def run(config: MergeConfig) -> None:
    """Merge the shards of an output, which are beside it."""
    output = Path(os.path.realpath(config.output))
    shards = found_shards(output)
    used = merged(output, _note_of(shards[0].place(output))["identity"] | {"shard": None}, shards)
    remark(f"written to {config.output}: {len(shards)} shards")
    remark(str(used))


def found_shards(output: Path) -> list[Shard]:
    """Return the shards of an output that are there.

    Raises:
        WheelsError: where there is none, one is missing, or there are those of two splits.
    """
    name = re.compile(re.escape(output.stem) + r"-(\d{5})-of-(\d{5})" + re.escape(output.suffix) + r"(\.run)?")
    beside = sorted(output.parent.iterdir()) if output.parent.is_dir() else []
    there = {Shard(int(found[1]), int(found[2])) for path in beside if (found := name.fullmatch(path.name))}
    if not there:
        raise WheelsError(
            f"{output}: no shard of it is there, such as {Shard(1, 2).place(output).name}; write them by "
            f"`wheels generate --shard I/N --output {output}`"
        )
    counts = sorted({shard.count for shard in there})
    if len(counts) > 1:
        raise WheelsError(
            f"{output}: shards of {counts[0]} and of {counts[1]} are there, which overlap; remove those of one split"
        )
    if gaps := [str(shard) for shard in all_shards(counts[0]) if shard not in there]:
        more = f" and {len(gaps) - 9} more" if len(gaps) > 9 else ""
        raise WheelsError(f"{output}: shard {', '.join(gaps[:9])}{more} is missing; write it, then merge again")
    return all_shards(counts[0])


def is_finished(place: Path, identity: Identity) -> bool:
    """Return whether a file of outputs is whole, and of this very run."""
    folder = run_folder(place)
    with suppress(WheelsError):
        note = find(folder, "generate", identity, kept=lambda: True)
        return note is not None and Run(folder, note, True).finished
    return False


def merged(output: Path, identity: Identity, shards: Sequence[Shard]) -> Summary:
    """Write the outputs of all shards into one file, unless it is whole, and return what the teacher was used for.

    Args:
        output: the file.
        identity: what its content depends on.
        shards: all of them.

    Raises:
        WheelsError: for a shard that is not finished, damaged, or of another run.
    """
    with claim(run_folder(output), "generate", MergeConfig(str(output)), identity) as held:
        if held.finished:
            return Summary(held.note["used"])
        places = [shard.place(output) for shard in shards]
        notes = [_checked(place, identity | {"shard": str(shard)}) for shard, place in zip(shards, places, strict=True)]
        if identity["format"] == "parquet":
            from wheels.decoding.commands import parquet  # on demand: pyarrow

            parquet.join(places, output)
        else:
            with open_output(output) as file:
                for place in places:
                    with place.open("rb") as part:
                        shutil.copyfileobj(part, file)
        used = Summary()
        for note in notes:
            used.include(note["used"])
        held.note["used"] = used.state
        held.finish(output)
        return used


def join_ranks(output: Path, identity: Identity, count: int) -> None:
    """Merge what the processes of one launch wrote, by the last of them, and delete their files."""
    shards = all_shards(count)
    if all(is_finished(shard.place(output), identity | {"shard": str(shard)}) for shard in shards):
        with suppress(Held):  # another one is merging
            merged(output, identity, shards)
            remark(f"written to {output}: the outputs of {count} processes")
            for shard in shards:
                shard.place(output).unlink(missing_ok=True)
                shutil.rmtree(run_folder(shard.place(output)), ignore_errors=True)
            lease_place(output).unlink(missing_ok=True)


def _note_of(place: Path) -> dict[str, Any]:
    """Return `run.json` of a shard.

    Raises:
        WheelsError: where there is none.
    """
    return note_in(run_folder(place), "identity", "config", advice="run its shard again, then merge")


def _checked(place: Path, identity: Identity) -> dict[str, Any]:
    """Return the note of a shard that is finished, whole, and of this run.

    Raises:
        WheelsError: for any other.
    """
    note = _note_of(place)
    check_same_run(f"{place} is of a run", note["identity"], identity, "write all shards with the same settings")
    if "finished" not in note:
        raise WheelsError(f"{place} is not finished; run its shard again, which goes on, then merge")
    if not Run(run_folder(place), note, True).finished:
        raise WheelsError(f"{place} is gone or damaged; run its shard again, then merge")
    return note
