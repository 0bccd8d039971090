"""Build backend: setuptools', except that an editable install puts a folder on the path, where type checkers find it.

The repository's root is the package itself, so that setuptools' editable install is an import hook, which mypy cannot
follow. Here .editable/ holds a link named frugal_rt to the root.
"""

import base64
import hashlib
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 (the hooks of PEP 517 and 660)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".editable"


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Build setuptools' editable wheel with a .pth file in its hook's place; PEP 660."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    link = FOLDER / "frugal_rt"
    try:
        FOLDER.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        return name  # without symbolic links, keep setuptools' hook
    _rewrite(Path(wheel_directory) / name, {"frugal_rt.pth": f"{FOLDER}\n".encode()})
    return name


def _rewrite(wheel, files):
    """Replace a wheel's members, except its metadata, by `files`, and update its RECORD."""
    with zipfile.ZipFile(wheel) as old:
        kept = {member: old.read(member) for member in old.namelist() if ".dist-info/" in member}
    record = next(member for member in kept if member.endswith("/RECORD"))
    del kept[record]
    lines = []
    with zipfile.ZipFile(wheel, "w") as new:
        for member, data in (files | kept).items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{member},sha256={digest},{len(data)}\n")
            new.writestr(member, data)
        new.writestr(record, "".join(lines) + f"{record},,\n")
