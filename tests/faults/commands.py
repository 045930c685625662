"""The commands that keep a run, each on a tiny pair and a few rows, so that it takes about a second."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.decoding.tiny import make_model, make_pair, save_artefact
from wheels.models.pair import Pair

LETTERS = "abcdefghijk"
ROWS = {"train": 24, "validation": 12, "test": 6}
PRETRAIN = "--max-steps 6 --eval-every 2 --batch-size 8 --eval-limit 4 --log-every 2 --max-target-length 8 --threads 1"
RECIPE = """
sentences: {train: 60, validation: 8, test: 6}
distil: {objective: kl, max_steps: 4, batch_size: 8, eval_every: 2, eval_limit: 4, metric: chrf}
train: {limit: 30, width: 8, warm_epochs: 1, rounds: 1, texts: 10, forks: 2, pseudo_references: 1, batch_size: 8}
calibrate: {rules: [learned, maxprob], budgets: [0.1, 0.2, 0.3], limit: 6}
curve: {rules: [learned, maxprob, random], budgets: [0, 0.2, 1], seeds: 1, resamples: 100, metrics: [chrf]}
examples: {rows: 2}
"""
SMALL = "width: 8, layers: 1, heads: 1, ff: 8, max_steps: 2, batch_size: 8, eval_limit: 0, max_target_length: 8"
RECIPES = {
    "study": f"""
teacher: {{{SMALL}, vocab_size: 280}}
students: {{ce: {{{SMALL}}}, seqkd: {{{SMALL}, objective: seqkd}}}}
scores: {{limit: 3, max_new_tokens: 6, metrics: [chrf]}}
""",
    "distillation": f"""
teacher: {{{SMALL}, vocab_size: 280}}
student: {{{SMALL.replace("width: 8, ", "")}}}
sizes: {{w8: {{width: 8}}}}
sweep: {{labels: [hard, soft], temperatures: [5], seeds: 1, cached_logits: 20, resamples: 100}}
scores: {{limit: 4, max_new_tokens: 6, metrics: [chrf]}}
""",
    "rationales": f"""
teacher: {{{SMALL}, vocab_size: 280}}
student: {{{SMALL}}}
grid: {{methods: [saliency], ks: [1], k: 1, controls: [none, random], seeds: 1, steps: 2, resamples: 100, captum: false,
  metric: exact}}
""",
}
STAGED = r".*(caches|teacher_outputs|checkpoints|points|rows)/|.*\.(seal|run/)|[^/]+/.+/run\.json"
"""What the stages of a recipe do not need again, the notes of their runs among it."""
CALIBRATE = "--rules learned,maxprob --budgets 0.2,0.5 --max-new-tokens 8 --threads 1"


@dataclass(frozen=True)
class Played:
    """One command, ready to be played."""

    argv: list[str]
    """It writes below OUT."""
    start: Callable[[Path], None] = lambda out: None
    """Puts into the output what the command needs there."""
    checkpoints: bool = False
    """Whether it trains by steps, so that what is kept is not in chunks."""
    result: str = ""
    """A pattern of the files that it is run for: what led to them is not needed once all is done."""
    scrap: str = "(?!)"
    """A pattern of files that lead to a part of it, and are not needed once that part is done."""
    at_once: bool = False
    """Whether it writes one file, when all is done: of two processes each may."""
    timed: str = r".*(resolved|run)\.json/.*seconds"
    """A pattern of what holds seconds, or follows from them: that it is there is all that is compared."""


def inputs(place: Path) -> None:
    """Write models, rows, a recipe and a calibrated model into a folder."""
    pair = make_pair("t5")
    pair.save_student(place / "student")
    pair.save_teacher(place / "teacher")
    Pair.of(make_model("t5", 8, 5), pair.teacher, pair.tokenizer).save_student(place / "larger")
    for split, count in ROWS.items():
        rows = [
            {"source": " ".join(LETTERS[(n * 3 + k) % 11] for k in range(1 + n % 5)), "target": f"a {LETTERS[n % 11]}"}
            for n in range(count)
        ]
        (place / "data").mkdir(parents=True, exist_ok=True)
        (place / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"source": " ".join(LETTERS[(n + k) % 11] for k in range(1 + n % 7))} for n in range(30)]
    (place / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sources))
    (place / "retrain.yaml").write_text("max_steps: 2\nbatch_size: 8\neval_limit: 4\n")
    (place / "demo.yaml").write_text(RECIPE)
    for name, recipe in RECIPES.items():
        (place / f"{name}.yaml").write_text(recipe)
    save_artefact(place / "model")
    for number in (1, 2, 3):
        shard = ["--output", str(place / "shards" / "out.txt"), "--shard", f"{number}/3"]
        subprocess.run([sys.executable, "-m", "wheels", *generate(place), *shard, "--quiet"], check=True)


def generate(inputs: Path) -> list[str]:
    """Return the command that writes from the pool, without its output."""
    files = ["--model", str(inputs / "model"), "--input", str(inputs / "pool.jsonl")]
    return [
        "generate",
        *files,
        *["--rule", "random", "--teacher-budget", "0.5", "--max-new-tokens", "8", "--threads", "1"],
    ]


def played(inputs: Path) -> dict[str, Played]:
    """Return the commands, by a name; what they read is in a folder of `inputs`."""
    return trainings(inputs) | writers(inputs) | benches(inputs) | comparisons(inputs)


def trainings(inputs: Path) -> dict[str, Played]:
    """Return the commands that train."""
    data = ["--data", str(inputs / "data")]
    pair = ["--student", str(inputs / "student"), "--teacher", str(inputs / "teacher")]
    train = "--width 8 --warm-epochs 1 --rounds 2 --texts 8 --pseudo-references 1 --batch-size 4 --max-new-tokens 8"
    train += " --budgets 0.2,0.5 --calibration-rules learned,maxprob --calibration-budgets 0.5 --threads 1"
    build = "--width 16 --layers 2 --heads 2 --ff 32 --vocab-size 280 --dropout 0.1"
    kl = ["--objective", "kl", "--lmbda", "0.5"]
    cached = ["--objective", "kl", "--cached-logits", "4"]
    pcl = ["--objective", "pcl", "--lmbda", "0.5", "--paths", "both"]
    return {
        "pretrain": Played(["pretrain", *data, *PRETRAIN.split(), *build.split()], checkpoints=True),
        "pretrain kl": Played(["pretrain", *data, *pair, *PRETRAIN.split(), *kl], checkpoints=True),
        "pretrain cached": Played(["pretrain", *data, *pair, *PRETRAIN.split(), *cached], checkpoints=True),
        "pretrain pcl": Played(["pretrain", *data, *pair, *PRETRAIN.split(), *pcl], checkpoints=True),
        "train": Played(["train", *data, *pair, *train.split()]),
    }


def writers(inputs: Path) -> dict[str, Played]:
    """Return the commands that write thresholds, labels and texts, and the demo."""
    teacher, data = str(inputs / "teacher"), ["--data", str(inputs / "data")]
    annotate = ["--annotation-budget", "8", "--teacher", teacher, "--assistant", teacher, *data]
    annotate += ["--student", str(inputs / "student"), "--retrain", str(inputs / "retrain.yaml")]
    more = "--metric chrf --samples 2 --warm-up 0.25 --max-new-tokens 8 --batch-size 8 --threads 1"
    annotate += ["--input", str(inputs / "pool.jsonl"), *more.split()]

    share = f"--model {inputs / 'model'} --to owner/pair --teacher owner/teacher"

    def shards(out: Path) -> None:
        shutil.copytree(inputs / "shards", out, dirs_exist_ok=True)

    return {
        "calibrate": Played(["calibrate", "--model", "OUT/model", *data, *CALIBRATE.split()], start=model(inputs)),
        "annotate": Played(["annotate", *annotate], result="(annotated|rejected).jsonl|summary.json"),
        "rationales": Played(
            ["rationales", *data, "--teacher", teacher, "--output", "OUT/rows.jsonl"], result="rows.jsonl$"
        ),
        "generate": Played([*generate(inputs), "--output", "OUT/out.txt"], result="out.txt$"),
        "merge": Played(["merge", "OUT/out.txt"], start=shards, result="out.txt$"),
        "demo": Played(["demo", "--recipe", str(inputs / "demo.yaml"), "--threads", "1"], scrap=STAGED),
        "push": Played(["push", *share.split(), "--output", "OUT/shared"]),
        "models": Played(["models", "--check", str(inputs / "student"), "--output", "OUT/models.json"], at_once=True),
    }


def model(inputs: Path) -> Callable[[Path], None]:
    """Return what puts a trained model before a command."""

    def put(out: Path) -> None:
        shutil.copytree(inputs / "model", out / "model")

    return put


def calibrated(inputs: Path) -> Callable[[Path], None]:
    """Return what puts a model with thresholds before a command."""
    from wheels.policy.calibration import Calibration, Point

    def put(out: Path) -> None:
        model(inputs)(out)
        points = [Point("learned", 0, 0.2, 0.0, 0.2), Point("maxprob", 0, 0.2, 0.9, 0.2)]
        Calibration(points).save(out / "model" / "deferral" / "calibration.json")

    return put


def benches(inputs: Path) -> dict[str, Played]:
    """Return the benchmarks."""
    data = ["--data", str(inputs / "data")]
    curve = "--rules maxprob,random --budgets 0,0.2,1 --seeds 1 --resamples 100 --metrics chrf --max-new-tokens 8"
    ceiling = "--rules maxprob --budgets 0.2 --seeds 1 --resamples 100 --metrics chrf --max-new-tokens 6"
    passes = "--budgets 0.2 --seeds 1 --resamples 100 --metrics chrf --max-new-tokens 8"

    def by_recipe(name: str) -> Played:
        output = ["--output", f"OUT/{name}", "--threads", "1"]
        return Played(["bench", name, "--recipe", str(inputs / f"{name}.yaml"), *data, *output], scrap=STAGED)

    def of_model(name: str, flags: str) -> Played:
        command = ["bench", name, "--model", "OUT/model", *data, "--output", f"OUT/{name}", *flags.split()]
        return Played(command, calibrated(inputs))

    own = {"curve": curve, "passes": passes, "ceiling": ceiling}
    return {f"bench {name}": of_model(name, flags) for name, flags in own.items()} | {
        f"bench {name}": by_recipe(name) for name in ("study", "distillation", "rationales")
    }


def comparisons(inputs: Path) -> dict[str, Played]:
    """Return the benchmarks of several models, of strategies of annotation, and of seconds."""
    teacher = str(inputs / "model" / "teacher")
    ways = ["--data", str(inputs / "data"), "--students", f"{inputs / 'larger'},{inputs / 'model'}"]
    write = "--budgets 0.3 --metrics chrf --max-new-tokens 6 --resamples 100"
    ways += ["--teacher", teacher, *write.split()]
    spend = ["--data", str(inputs / "data"), "--pool", str(inputs / "data" / "train.jsonl")]
    spend += ["--student", str(inputs / "student"), "--assistants", teacher]
    few = "--strategies random,consistency,assistant --budgets 4 --seeds 1 --warm-up 0.25 --metric chrf --samples 2"
    few += " --epochs 1 --max-new-tokens 4 --pool-limit 12 --test-limit 4 --resamples 50 --threads 1"
    clock = "--methods student,deferral --rows 2 --batch-sizes 1,2 --rounds 2 --max-new-tokens 4 --threads 1"
    speed = ["--model", "OUT/model", "--data", str(inputs / "data"), "--output", "OUT/speed", *clock.split()]
    seconds = ["--time-batches", "1", "--time-rows", "2", "--rounds", "2"]
    return {
        "advise": Played(
            ["advise", *ways, *seconds, "--threads", "1"], timed=r"seconds/|advise.json/(advice|ways/\d+/costs)"
        ),
        "bench frontier": Played(["bench", "frontier", *ways, "--time-batches", "", "--threads", "1"]),
        "bench annotation": Played(["bench", "annotation", *spend, *few.split()], scrap="cells/.*/(?!cell.json$)"),
        "bench speed": Played(["bench", "speed", *speed], calibrated(inputs), timed="speed/"),
    }
