"""`wheels push`: a trained model to the Hub, with its card and the file that transformers' `generate` reads."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from wheels.errors import WheelsError
from wheels.files import new_folder, write_text
from wheels.models.artefact import check_model, forget_places
from wheels.sharing import custom_generate
from wheels.sharing.card import card
from wheels.sharing.config import PushConfig

KEPT = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""The student's files; what a run leaves beside them stays here."""
NOTES = ("run.json", "finished.json", "resolved.json")
"""Files of a run, with the places of this machine in them."""
GENERATE = Path("custom_generate", "generate.py")
"""What transformers' `generate` reads."""
BESIDE = "teacher"
"""The folder of a teacher that travels along."""


def run(config: PushConfig) -> None:
    """Push a trained model, or write what would be pushed; see `PushConfig`.

    Raises:
        WheelsError: for a folder that is no trained model, a teacher that others cannot load, and what the Hub refuses.
    """
    if config.output is not None:
        check_ours(Path(config.output))
        with new_folder(config.output) as place:
            stage(config, place)
        print(f"written to {config.output}: nothing was pushed")
        return
    with tempfile.TemporaryDirectory(prefix="wheels-push.") as temporary:
        stage(config, Path(temporary))
        print(f"pushed to {upload(Path(temporary), config)}")


def check_ours(place: Path) -> None:
    """Refuse to replace a folder that holds something else than what was to be pushed.

    Raises:
        WheelsError: naming what is there.
    """
    there = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if there and not (place / GENERATE).is_file():
        raise WheelsError(f"{place} holds something else ({there[0]}); give a new or an empty folder by --output")


def stage(config: PushConfig, place: Path) -> None:
    """Write into a folder what is shared: the student, its heads and thresholds, card and `custom_generate/`."""
    folder = Path(config.model)
    teacher = shared_teacher(config, folder, str(check_model(folder)["teacher"]))
    for pattern in KEPT:
        for file in sorted(folder.glob(pattern)):
            if file.name not in NOTES:
                shutil.copy(file, place)
    shutil.copytree(folder / "deferral", place / "deferral", ignore=shutil.ignore_patterns(".*"))
    if teacher == BESIDE:
        shutil.copytree(folder / BESIDE, place / BESIDE, ignore=shutil.ignore_patterns(".*"))
    forget_places(place, teacher)
    write_text(place / GENERATE, Path(str(custom_generate.__file__)).read_text(encoding="utf-8"))
    write_text(place / "custom_generate" / "requirements.txt", "training-wheels\n")
    results = None if config.results is None else Path(config.results)
    repository = None if teacher == BESIDE else teacher
    write_text(place / "README.md", card(folder, config.to, repository, config.license, results))


def shared_teacher(config: PushConfig, folder: Path, named: str) -> str:
    """Return the teacher as others will find it: a repository, or the folder `teacher` where it travels along.

    Raises:
        WheelsError: where it is a folder of this machine alone.
    """
    if config.teacher is not None:
        return config.teacher
    if named == BESIDE and (folder / BESIDE).is_dir():
        return BESIDE
    if Path(named).exists() or (folder / named).exists() or named.startswith((".", "/")):
        raise WheelsError(
            f"the teacher of {folder} is {named!r}, a folder that others do not have; push it too, and name its "
            "repository by --teacher owner/name"
        )
    return named


def upload(place: Path, config: PushConfig) -> str:
    """Upload a folder; return the address of the commit.

    Raises:
        WheelsError: with what the Hub said.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(config.to, private=config.private, exist_ok=True)
        done = api.upload_folder(repo_id=config.to, folder_path=place, commit_message="Student, heads and thresholds")
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WheelsError(
            f"the Hub did not take {config.to}: {said}; log in with `hf auth login`, or write a folder by --output"
        ) from error
    return str(done.commit_url)
