"""Device and host: the sampler, exact bytes at token speed.

`controls` says how a byte is drawn; `state`, `draft`, `tree`, `settle` and
`loop` are the loop on the device, `sources` may add to its drafts; `room` is
what it begins with, `batch` what users meet. Token by token it is `starts`,
the loop in `trail`, `tokendraw` and `tokenloop`, and `tokenwise`.
"""

from byteprob.sampling.batch import Drafts, Sample, Sampler
from byteprob.sampling.room import Prompt, Reader
from byteprob.sampling.settings import Settings
from byteprob.sampling.sources import TRIFLE, LookUp, Smaller
from byteprob.sampling.tokenwise import TokenSample, TokenSettings

__all__ = [
  "TRIFLE",
  "Drafts",
  "LookUp",
  "Prompt",
  "Reader",
  "Sample",
  "Sampler",
  "Settings",
  "Smaller",
  "TokenSample",
  "TokenSettings",
]
