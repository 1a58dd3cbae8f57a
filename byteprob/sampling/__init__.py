"""Host: drawing texts, byte by byte or token by token.

Byte by byte is the engine's loop with `params`, in a `batch`. Token by token
it is `starts`, the loop in `trail`, `tokendraw` and `tokenloop`, and
`tokenwise`.
"""

from byteprob.sampling.batch import Sample, Sampler
from byteprob.sampling.params import SamplingParams, sampling_params
from byteprob.sampling.tokenwise import TokenSample, TokenSamplingParams

__all__ = [
  "Sample",
  "Sampler",
  "SamplingParams",
  "TokenSample",
  "TokenSamplingParams",
  "sampling_params",
]
