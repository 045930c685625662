"""A trained model's folder: on this machine, or a repository of the Hub, fetched on first use."""

from __future__ import annotations

from pathlib import Path

from wheels.errors import WheelsError
from wheels.models.places import offline

FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "deferral/*", "teacher/*")
"""What of a repository is fetched."""


def model_folder(name: str | Path) -> Path:
    """Return the folder of a trained model.

    Args:
        name: a folder, or `owner/name` or `owner/name@revision` of the Hub where no such folder exists.

    Raises:
        WheelsError: where there is neither, or the Hub is off and the repository not in its cache.
    """
    folder, (repository, _, revision) = Path(name), str(name).partition("@")
    if folder.exists() or str(name).startswith((".", "/", "~")) or repository.count("/") != 1:
        return folder
    from huggingface_hub import snapshot_download  # on demand: a folder needs no Hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        files, commit = [*FILES], revision or None
        # Some releases list a commit's files on the Hub although it is off.
        return Path(snapshot_download(repository, revision=commit, allow_patterns=files, local_files_only=offline()))
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        why = "the Hub is off (HF_HUB_OFFLINE=1), and not in its cache" if offline() else str(error).splitlines()[0]
        raise WheelsError(
            f"no model folder {str(name)!r}, and no repository of the Hub of that name ({why}); give what `wheels "
            "train --output` wrote, or owner/name"
        ) from None
