"""Pools for many callers, with an engine in each worker process; requests are batched step by step."""

from .pool import Pool

__all__ = ["Pool"]
