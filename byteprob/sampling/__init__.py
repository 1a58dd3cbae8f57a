"""Device and host: the sampler, exact bytes at token speed.

`controls` says how a byte is drawn; `state`, `draft`, `tree` and `loop` are
the loop on the device; `batch` is what users meet.
"""

from byteprob.sampling.batch import Prompt, Sample, Sampler, Settings

__all__ = ["Prompt", "Sample", "Sampler", "Settings"]
