"""A contender with a known error."""

import numpy as np

from frugal_rt.runtime.evaluation.contender import Outcome, Refused


class Blur:
    """A contender that returns the measurement plus noise of a known deviation, and counts its calls."""

    def __init__(self, images, deviation=0.1, name="blur", refuse=()):
        self.images, self.deviation, self.name, self.refuse, self.calls = images, deviation, name, refuse, []

    def takes(self, operator, sigma):
        return True

    def events(self, images, operator, sigma):
        return 1

    def restore(self, y, operator, sigma, seed, sample, on_step):
        if operator.name in self.refuse:
            raise Refused("not with me")
        self.calls.append((operator.name, seed, sample))
        noise = np.random.default_rng([seed, sample]).standard_normal(self.images.shape)
        n = len(y)
        return Outcome((self.images + self.deviation * noise).astype(np.float32), [None] * n, [4] * n, [2] * n, 6.0)
