"""`wheels demo --retrain`: the embedded pair from scratch, by its recipe, in stages that are each done once."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import wheels
from wheels.agents.config import TrainConfig
from wheels.benchmarks.core.commands import command, distil, embedded_pair
from wheels.benchmarks.core.recipe import Recipe, shipped_recipe, with_digests
from wheels.benchmarks.core.stages import Stage, run_stages
from wheels.benchmarks.demo.config import DemoConfig
from wheels.config.parsing import write_resolved
from wheels.data.corpus import EMBEDDED, FILE, draw, read
from wheels.data.tasks import SPLITS, Task, load_task
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.distillation.config import PretrainConfig
from wheels.errors import WheelsError
from wheels.files import new_folder, read_json, read_object, write_bytes, write_json, write_jsonl, write_text
from wheels.output.notices import in_words
from wheels.runs import LOCK

SECTIONS = ("teacher", "student", "policy", "calibrate")
RECIPE = "embedded-translation"


def run(config: DemoConfig) -> None:
    """Train the embedded pair and put it in its place.

    Raises:
        WheelsError: where the place cannot be written, and whatever a stage raises.
    """
    from wheels.models.artefact import forget_places

    output, work = output_folder(config), Path(config.work)
    recipe = Recipe.read(config.recipe or shipped_recipe(RECIPE), SECTIONS)
    stages = retrain_stages(config, work, recipe)
    seconds = run_stages(work, config, stages, {"command": "demo --retrain", "wheels": wheels.__version__})
    facts = read_object(work / "facts.json")
    # The first arguments alone: the place of this installation says nothing about the result.
    extra = {"argv": ["wheels", *sys.argv[1:]], "recipe": recipe.sections, "seconds": seconds, **facts}
    with new_folder(output) as folder:
        shutil.copytree(work / "pair", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))
        forget_places(folder, "teacher")
        write_resolved(config, folder, extra)
        write_text(folder / "README.md", card(read_json(folder / "resolved.json")))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"written to {output}: {size / 1e6:.2f} MB in all")


def output_folder(config: DemoConfig) -> Path:
    """Return where the pair goes: `--output`, or its place in this checkout.

    Raises:
        WheelsError: where that is no checkout, cannot be written, or holds something else.
    """
    output = Path(config.output) if config.output is not None else embedded_pair()
    root = embedded_pair().parents[2]
    if config.output is None and not (root / "pyproject.toml").is_file():
        raise WheelsError(f"{embedded_pair()} belongs to an installed package, no checkout; give --output DIR")
    place = output
    while not place.exists():
        place = place.parent
    try:  # now, not after the work; permissions alone do not tell, for the superuser has them all
        tempfile.TemporaryDirectory(dir=place).cleanup()
    except OSError as error:
        raise WheelsError(f"cannot write {output}: {error.strerror} at {place}; give another --output") from error
    if output.exists() and any(output.iterdir()) and not _is_ours(output):
        raise WheelsError(f"{output} holds something else than a pair; give a new or an empty folder by --output")
    return output


def _is_ours(folder: Path) -> bool:
    """Whether a folder was written by this very command, whose result may be replaced: a user's own model may not."""
    note = folder / "resolved.json"
    return note.is_file() and read_object(note, "config")["config"].get("retrain") is True


def retrain_stages(config: DemoConfig, work: Path, recipe: Recipe) -> list[Stage]:
    """Return the stages, their settings checked.

    Raises:
        WheelsError: naming the recipe and the section, for a setting that is not allowed.
    """
    teacher, student, rounded, pair = work / "teacher", work / "student", work / "rounded", work / "pair"
    rows, threads = work / EMBEDDED, {"threads": config.threads}
    learned_from = {"data": config.data or EMBEDDED, **threads}
    teacher_config = recipe.configure("teacher", PretrainConfig, output=str(teacher), **learned_from)
    student_config = recipe.configure(
        "student", PretrainConfig, output=str(student), teacher=str(teacher), **learned_from
    )
    shared = {"data": str(rows), **threads}
    policy, ends = work / "policy", {"student": str(rounded), "teacher": str(rounded / "teacher")}
    policy_config = recipe.configure("policy", TrainConfig, output=str(policy), calibrate=False, **ends, **shared)
    calibrate_config = recipe.configure("calibrate", CalibrateConfig, model=str(pair), **shared)
    settings = {**recipe.sections, "teacher": with_digests(recipe.sections["teacher"], teacher_config)}
    settings["student"] = with_digests(recipe.sections["student"], student_config)
    stages: list[Stage] = []

    def add(name: str, title: str, results: Sequence[Path], run: Callable[[], object]) -> None:
        stages.append(Stage(name, title, tuple(results), settings.get(name, {}), run))

    rounding, facts = partial(round_pair, student, teacher, rounded), work / "facts.json"
    add("corpus", "drawing the embedded corpus", [rows], partial(write_corpus, config.data, rows))
    add("teacher", "training the teacher from scratch", [teacher], partial(distil, teacher_config))
    add("student", "distilling the student", [student], partial(distil, student_config))
    add("round", "rounding both to half precision", [rounded, rounded / "teacher"], rounding)
    trained = [policy, policy / "deferral"]
    add("policy", "teaching the student when to call", trained, partial(command, policy_config))
    deferral, assembling = pair / "deferral", partial(assemble, rounded, policy, rows / FILE, pair)
    add("assemble", "putting the pair together", [pair, pair / "teacher", deferral], assembling)
    title = "finding the thresholds of the budgets"
    add("calibrate", title, [deferral / "calibration.json"], partial(command, calibrate_config))
    title = "measuring both ends on the test split"
    add("measure", title, [facts], partial(measure, pair, str(rows), teacher_config.data, facts))
    return stages


def write_corpus(data: str | None, folder: Path) -> None:
    """Draw the embedded corpus from a data set, or take the present one; write it packed, and as rows."""
    if data is None:
        write_bytes(folder / FILE, (embedded_pair() / FILE).read_bytes())
    else:
        task = load_task(data)
        draw(folder / FILE, {split: [(row.source, row.target) for row in task.rows(split)] for split in SPLITS})
    for split, pairs in read(folder / FILE).items():
        write_jsonl(folder / f"{split}.jsonl", ({"source": source, "target": target} for source, target in pairs))


def round_pair(student: Path, teacher: Path, folder: Path) -> None:
    """Write both models with float16 weights: half the size, and what follows is trained on the rounded ones."""
    for source, place in ((student, folder), (teacher, folder / "teacher")):
        write_half(source, place)


def write_half(source: Path, folder: Path) -> None:
    """Write a model with float16 weights, its tokenizer in one line; plain tools still load it as float32."""
    from wheels.models.loading import load_model, load_tokenizer, save_model

    # Halved after loading: asked for float16, T5 would keep some of its weights in float32.
    save_model(load_model(source).half(), load_tokenizer(source), folder)
    settings = read_json(folder / "config.json")
    write_json(folder / "config.json", settings | {"dtype": "float32"})
    tokenizer = read_json(folder / "tokenizer.json")
    write_text(folder / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")


def assemble(rounded: Path, policy: Path, corpus: Path, folder: Path) -> None:
    """Put the rounded models, the trained heads, rounded too, and the corpus into one folder that can be moved."""
    from safetensors.torch import load, save

    from wheels.models.artefact import SPANS, forget_places

    with new_folder(folder) as place:
        shutil.copytree(rounded, place, dirs_exist_ok=True)
        shutil.copy(corpus, place)
        tensors = load((policy / "deferral" / "model.safetensors").read_bytes())
        heads = save({name: tensor.half() for name, tensor in tensors.items()})
        write_bytes(place / "deferral" / "model.safetensors", heads)
        for name in ("config.json", SPANS):
            if (policy / "deferral" / name).is_file():  # a recipe may learn no spans
                shutil.copy(policy / "deferral" / name, place / "deferral")
        forget_places(place, "teacher")


def measure(pair: Path, data: str, learned_from: str, path: Path) -> None:
    """Write the quality of both ends on the test split, with the data's digest and the sizes of both models."""
    from wheels.models.artefact import Artefact

    artefact, task = Artefact.load(pair), load_task(data)
    models = {"student": artefact.pair.student, "teacher": artefact.pair.teacher}
    facts = {
        "task": task.name,
        "learned_from": len(load_task(learned_from).train),
        "data_digest": task.digest,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "vocabulary": artefact.pair.vocab_size,
        "test_rows": len(task.test),
        "test": ends(artefact, task),
    }
    write_json(path, facts)


def ends(artefact: Any, task: Task) -> dict[str, dict[str, float]]:
    """Return the metrics of each model alone on the test split."""
    from wheels.benchmarks.core.score import Alone, quality
    from wheels.models.pair import Pair

    pair, references = artefact.pair, [row.scored_against for row in task.test]
    found = {}
    for name, model in (("student", pair.student), ("teacher", pair.teacher)):
        alone = Alone(Pair.alone(model, pair.tokenizer, prompt=pair.prompt), {})
        found[name] = quality(alone.write(task.test), references, task.metrics)
    return found


CARD = """# The embedded pair: German to English

A T5-family student and teacher that translate short everyday German, and the heads that tell the student when to call.
The teacher learned from {learned_from:,} sentence pairs of Tatoeba, the student from the teacher. `corpus.tsv.xz` holds
the embedded corpus (task `{task}`, digest `{data_digest}`): 40,000 of these pairs, 1,500 for
validation, 2,000 for tests.

Both are small. News, long sentences, names and rare words are beyond them, other languages altogether.

| | parameters | BLEU | chrF |
|---|---|---|---|
{rows}

Test split ({test_rows:,} rows), greedy, each model alone, as the weights stand here: rounded to float16, computed in
float32. One vocabulary of {vocabulary:,} byte-level pieces. This folder is the student's, as `save_pretrained` leaves
it; `teacher/` is the teacher's; `deferral/` holds the heads (`learned` and `regret`, seeds: {seeds}), what
spans gain, and the thresholds, which were found on the validation split.

Made by `wheels demo --retrain` with `benchmarks/recipes/embedded-translation.yaml`, in {time}; the settings, seeds,
versions and seconds of each stage stand in `resolved.json`. Another processor, or another number of threads, rounds
otherwise and gives weights that differ a little.

Licence of the models and heads: Apache-2.0. The sentences are Tatoeba's, CC BY 2.0 France
(https://creativecommons.org/licenses/by/2.0/fr/), as packed by www.manythings.org/anki (edition of 2018-05-13);
attribution: www.manythings.org/anki and tatoeba.org. Exact duplicates were dropped, and no sentence stands in two
splits.
"""


def card(resolved: dict[str, Any]) -> str:
    """Return the model card."""
    rows = [
        f"| {name} | {resolved['parameters'][name]:,} | {scores['bleu']:.1f} | {scores['chrf']:.1f} |"
        for name, scores in resolved["test"].items()
    ]
    return CARD.format(
        **{name: resolved[name] for name in ("task", "data_digest", "vocabulary", "learned_from")},
        rows="\n".join(rows),
        test_rows=resolved["test_rows"],
        seeds=resolved["recipe"]["policy"].get("seeds", 1),
        time=in_words(sum(resolved["seconds"].values())),
    )
