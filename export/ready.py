"""Write the ready.zip of the embedded priors: their plans without the weights. Run it after a change of the exporter.

python -m frugal_rt.export.ready        # traces both priors, compares them with torch, and writes their ready.zip
"""

import io
import struct
import zipfile

from ..engines import Plan
from ..engines.embedded import FOLDERS, HEADER, READY
from ..engines.files import atomic_write
from ..engines.plan import MANIFEST, WEIGHTS
from .pipeline import verified_plan
from .priors.prior import find_prior

WRITTEN = (1980, 1, 1, 0, 0, 0)
"""The date of every entry; constant, so that equal plans make equal files."""


def ready(plan: Plan) -> bytes:
    """Return a zip of a plan's manifest, its members without the weights, and the header of the weights."""
    weights = plan.member(WEIGHTS)
    (length,) = struct.unpack_from("<Q", weights)
    members = {name: bytes(plan.member(name)) for name in plan.members if name != WEIGHTS}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {
            MANIFEST: bytes(plan.manifest_bytes()),
            HEADER: bytes(weights[: 8 + length]),
            **members,
        }.items():
            archive.writestr(zipfile.ZipInfo(name, WRITTEN), data, zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()


def main() -> None:
    """Write the ready.zip of every embedded prior."""
    for name, folder in FOLDERS.items():
        data = ready(verified_plan(find_prior(name)))
        with atomic_write(folder / READY) as file:
            file.write(data)
        print(f"{folder / READY}: {len(data)} bytes")


if __name__ == "__main__":
    main()
