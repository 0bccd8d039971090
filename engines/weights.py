"""Reader of safetensors in a buffer: a plan's weights are used in place. The safetensors package reads whole files."""

import json
import math
import struct

import numpy as np

from .errors import PlanError

LONGEST_HEADER = 16 << 20
"""The most bytes of a header; photo's has 20 kB."""
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}


def read_safetensors(data: memoryview, source: str) -> dict[str, tuple[np.ndarray, int]]:
    """Return the tensors of a safetensors buffer by name, as views, each with its offset in bytes.

    Raises PlanError where the header does not describe the buffer, or a tensor is not aligned to its type's size.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > LONGEST_HEADER:
            raise ValueError("a header longer than any")
        header = json.loads(bytes(data[8 : 8 + length]))
        start, tensors = 8 + length, {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kind, shape, (begin, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
            if not 0 <= begin <= end <= len(data) - start or min(shape, default=0) < 0:
                raise ValueError(name)
            if math.prod(shape) * kind.itemsize != end - begin or (start + begin) % kind.itemsize:
                raise ValueError(name)
            tensors[name] = (np.frombuffer(data[start + begin : start + end], kind).reshape(shape), start + begin)
        return tensors
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PlanError(f"{source}: its weights are not a safetensors file") from error
