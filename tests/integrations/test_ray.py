"""`Decoder` on Ray Data: what it returns for a batch, and for real on two processors."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.decoding.tiny import save_artefact
from wheels.cli.main import main
from wheels.errors import WheelsError
from wheels.integrations.ray import Decoder, config_of

ROOT = Path(__file__).parents[2]
TEXTS = ["a b c", "d", "e f g h", "a", "b c"] * 8
SETTINGS = {"rule": "random", "teacher_budget": 0.5, "max_new_tokens": 8, "threads": 1}

NAMES = ("", "_tokens", "_teacher_tokens", "_teacher_passes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_artefact(tmp_path_factory.mktemp("ray") / "model"))


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> list[str]:
    """What one process writes."""
    place = tmp_path_factory.mktemp("one")
    (place / "in.txt").write_text("\n".join(TEXTS))
    flags = [part for name, value in SETTINGS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    flags += ["--model", folder, "--input", str(place / "in.txt"), "--output", str(place / "out")]
    assert main(["generate", *flags]) == 0
    return (place / "out").read_text().splitlines()


@pytest.mark.slow
def test_batches_of_any_size_and_order_give_what_one_process_writes(folder, expected):
    decoder = Decoder(model=folder, number="id", **SETTINGS)
    order = [*range(7, 20), *range(7), 39, *range(20, 39)]
    found = {}
    for start in range(0, len(order), 9):
        numbers = order[start : start + 9]
        batch = decoder({"id": np.array(numbers), "source": np.array([TEXTS[number] for number in numbers])})
        assert list(batch) == ["id", "source", *(f"output{name}" for name in NAMES)]
        assert (batch["output_teacher_tokens"] <= batch["output_tokens"]).all()
        found |= dict(zip(numbers, batch["output"].tolist(), strict=True))
    assert [found[number] for number in range(len(TEXTS))] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_format": "json"}, "unknown key 'output_format'"),
        ({"input": "a"}, "input is for the command line: a dataset says itself where rows come from"),
        ({"budget_mode": "online"}, "budget_mode 'online' decides by what earlier rows spent, and Ray gives batches"),
        ({"temperature": 1.0}, "draws depend on a row's number: give number="),
        ({"rule": "random"}, "draws depend on a row's number: give number="),
        (
            {"teacher": "http://h/v1", "teacher_model": "m", "max_teacher_requests": 9, "teacher_key": "HOME"},
            "max_teacher_requests would be spent by each actor anew; use `wheels generate --shard I/N`",
        ),
    ],
)
def test_what_has_no_meaning_for_rows_in_any_order_is_refused(settings, message):
    with pytest.raises(WheelsError, match=message.replace("(", r"\(")):
        config_of(settings, None)


def test_a_column_that_is_not_there_is_named(folder):
    with pytest.raises(WheelsError, match="no column 'source'; the columns are: text"):
        Decoder(model=folder, teacher_budget=0)({"text": np.array(["a"])})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Ray's own
def test_two_actors_of_ray_write_what_one_process_does(folder, expected, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else runs here comes before the actors
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HF_HUB_OFFLINE": "1"}
    small = {"include_dashboard": False, "object_store_memory": 100_000_000}
    ray.init(num_cpus=2, runtime_env={"env_vars": paths}, **small)
    try:
        rows = ray.data.from_items([{"id": number, "source": text} for number, text in enumerate(TEXTS)])
        actors = {"compute": ray.data.ActorPoolStrategy(size=2), "num_cpus": 0.5, "batch_size": 5}
        settings = {"model": folder, "number": "id", **SETTINGS}
        written = rows.map_batches(Decoder, fn_constructor_kwargs=settings, **actors).take_all()
    finally:
        ray.shutdown()
    assert [row["output"] for row in sorted(written, key=lambda row: row["id"])] == expected
