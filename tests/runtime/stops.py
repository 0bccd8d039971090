"""A Stop that counts how often work asks for it."""

import math

from frugal_rt.engines.stopping import Stop


class Counting(Stop):
    """Is asked for from the check after the first `free` ones on; `checks` counts them."""

    def __init__(self, free: float = math.inf):
        self.checks, self._free = 0, free
        super().__init__()

    @property
    def asked(self) -> bool:
        self.checks += 1
        return self.checks > self._free

    @asked.setter
    def asked(self, asked: bool) -> None: ...
