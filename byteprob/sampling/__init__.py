"""Device and host: the sampler, exact bytes at token speed.

`controls` says how a byte is drawn; `state`, `draft`, `tree` and `loop` are
the loop on the device, `sources` may add to its drafts; `batch` is what users
meet.
"""

from byteprob.sampling.batch import Drafts, Prompt, Sample, Sampler, Settings
from byteprob.sampling.sources import TRIFLE, LookUp, Smaller

__all__ = [
  "TRIFLE",
  "Drafts",
  "LookUp",
  "Prompt",
  "Sample",
  "Sampler",
  "Settings",
  "Smaller",
]
