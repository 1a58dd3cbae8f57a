"""Host: drawing texts, byte by byte or token by token.

Byte by byte is the engine's loop with `settings`, in a `batch`. Token by token
it is `starts`, the loop in `trail`, `tokendraw` and `tokenloop`, and
`tokenwise`.
"""

from byteprob.sampling.batch import Sample, Sampler
from byteprob.sampling.settings import Settings, settings_of
from byteprob.sampling.tokenwise import TokenSample, TokenSettings

__all__ = [
  "Sample",
  "Sampler",
  "Settings",
  "TokenSample",
  "TokenSettings",
  "settings_of",
]
