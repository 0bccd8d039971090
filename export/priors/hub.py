"""Published priors that are downloaded by name, each pinned to a revision and a hash."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engines import InputError, MissingExtra
from ...engines.extras import require_export
from ...engines.files import sha256_of


@dataclass(frozen=True)
class Published:
    """A repository on the Hugging Face hub, the files to download, and the SHA-256 of its weights."""

    repository: str
    revision: str
    files: tuple[str, ...]
    """The files to download; the weights, which are large, come last."""
    sha256: str
    framing: dict[str, Any] | None = None
    """The content of its framing.json (see `Prior.framing`)."""


PUBLISHED = {
    "celebahq-256": Published(
        "google/ddpm-celebahq-256",
        "cd5c944777ea2668051904ead6cc120739b86c4d",
        ("README.md", "config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"),
        "efff89712093ad060ce99d9b461bbe542b49d8dd4ce30f23fe5761dca292361d",
        {"centre": [0.502, 0.554], "side": 0.677},  # medians over six pictures of CelebA-HQ and FFHQ
    )
}
"""Priors of the hub, by their names for `--model`."""


def fetch(name: str) -> Path:
    """Return the folder that holds PUBLISHED[name]; download what is missing, and continue an interrupted download.

    Progress is shown on standard error. Raises MissingExtra, before the download, where the packages for exporting are
    not installed; InputError where the download fails or the weights have another hash.
    """
    require_export()
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtra(f"Downloading {name}", "huggingface_hub", "cpu,export") from error
    published = PUBLISHED[name]
    try:
        paths = [
            Path(hf_hub_download(published.repository, file, revision=published.revision)) for file in published.files
        ]
    except Exception as error:  # the hub's errors and its transport's share no base but Exception
        raise InputError(
            f"{name} could not be downloaded ({type(error).__name__}); try again online, which goes on where it broke "
            f"off, or give a folder that holds {published.repository}: --weights DIR"
        ) from error
    if _sha256(paths[-1]) != published.sha256:
        raise InputError(
            f"{paths[-1].name} of {name} is not the file that was published: its SHA-256 differs; "
            "delete it from the hub's cache and download it again"
        )
    return paths[-1].parent


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}; download it again") from error
