"""Export of a prior's weights to a verified plan."""

from ..engines.manifest import HALVES
from .pipeline import build_plan, export_plan, open_prior, verified_plan
from .priors.hub import PUBLISHED
from .priors.prior import EMBEDDED, Prior, find_prior, read_prior

__all__ = [
    "EMBEDDED",
    "HALVES",
    "PUBLISHED",
    "Prior",
    "build_plan",
    "export_plan",
    "find_prior",
    "open_prior",
    "read_prior",
    "verified_plan",
]
