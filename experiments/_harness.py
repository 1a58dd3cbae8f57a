"""Host: byte-level models in EleutherAI's harness, `lm_eval`.

Importing this registers the model "byteprob":

  lm_eval.simple_evaluate("byteprob", "model=smollm2-135m", tasks=["piqa"])

What differs from the harness's own models is what bytes make of it. A context
ends where the task ends it, inside a token too, so nothing is moved from it to
the continuation. A continuation is greedy where each of its *bytes* is the
likeliest. Temperature, top-k and top-p act on bytes. A special token's text is
text.
"""

import collections
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models import utils

import byteprob
from byteprob import hub, windows
from experiments import _runtime
from experiments._windows import Windows

JOINS = "+"
"""Between the names of an ensemble's members."""

SIDE_BY_SIDE = 64
"""Texts that are scored before their results are kept."""

LIKELIEST, UNLIKELY = math.log(1 / 2) + 1e-3, math.log(1 / 257) - 1e-3
"""A byte above the one is the likeliest, and one below the other is not."""

CONTROLS = ("temperature", "top_p", "top_k", "min_p")
"""Sampling settings that a task may give; see `sampling.SamplingParams`."""

NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0}
"""Other settings that a task may give, at values that change nothing."""


@register_model("byteprob")
class ByteprobLM(LM):
  """A `ByteLM` or an ensemble of them, for the harness."""

  def __init__(
    self,
    model: str | byteprob.ByteLM | byteprob.Ensemble = hub.DEFAULT,
    *,
    strategy: str = "mixture",
    weights: str | float = "",
    dtype: str = "float32",
    validity: str = "exact",
    max_length: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_gen_toks: int = 256,
    bytes_per_token: float = 4.0,
    batch_size: int = 8,
    seed: int = 0,
  ):
    """Loads a model.

    Args:
      model: a model or an ensemble; or the name or path of one, see
        `byteprob.load`, or of several with `+` between.
      strategy, weights: of an ensemble, see `byteprob.Ensemble`; the weights
        with `+` between, too.
      dtype, validity: see `byteprob.load`.
      max_length: tokens of a text at most, as other models of the harness
        have it; the model's context by default. Longer contexts lose their
        beginning.
      window, stride: whole texts (`loglikelihood_rolling`) are scored in parts
        of so many bytes, as `ByteLM.byte_logprobs` does it; by default in
        parts that fill the context, as the harness does it.
      max_gen_toks: tokens to draw at most where a task does not say.
      bytes_per_token: how many bytes a task may draw for each token it asks
        for; the mean of today's tokenizers over English by default.
      batch_size: texts drawn greedily side by side.
      seed: of the random numbers. A text that is drawn depends on the seed,
        its context, and how many were drawn after that context, but not on
        other texts.
    """
    super().__init__()
    if isinstance(model, str):
      model = load(model, strategy, str(weights), dtype, validity)
    self.lm = model
    members = getattr(model, "members", (model,))
    self.windows = Windows(lms=members, max_length=max_length)
    if window is None and stride is not None:
      raise ValueError("stride is of a window: give window, too")
    self.window = window
    self.stride = window // 2 if window and stride is None else stride
    self.max_gen_toks = max_gen_toks
    self.bytes_per_token = bytes_per_token
    self.batch_size = int(batch_size)
    self.seed = seed

  def loglikelihood(
    self, requests: Sequence[Instance]
  ) -> list[tuple[float, bool]]:
    """Log-prob of continuations, and whether each byte is the likeliest.

    Args:
      requests: contexts and continuations.

    Raises:
      PromptError: a text cannot be expressed in the model's tokens, or a
        continuation alone is longer than the context.
    """
    pairs = [self._fitted(*request.args) for request in requests]
    found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    score = self.lm.byte_logprobs_batch
    for numbers, logprobs in self._scored(pairs, score):
      texts = [b"".join(pairs[k]) for k in numbers]
      greedy = self._greedy(texts, logprobs)
      for k, values, is_greedy in zip(numbers, logprobs, greedy, strict=True):
        found[k] = float(values.sum(dtype=np.float64)), is_greedy
        self.cache_hook.add_partial("loglikelihood", requests[k].args, found[k])
    return found

  def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
    """Log-prob of whole texts, each byte given as much as fits before it.

    Longer texts are cut as the harness does it (see `Windows.rolling`), or in
    windows.

    Args:
      requests: texts.
    """
    pairs, owners = [], []
    for k, request in enumerate(requests):
      text = self.windows.working(request.args[0].encode())
      if self.window is None:
        parts = self.windows.rolling(text)
      else:
        parts = [
          (text[part.start : part.first], text[part.first : part.stop])
          for part in windows.parts(text, self.window, self.stride)
        ]
      pairs += parts
      owners += [k] * len(parts)
    found = [0.0] * len(requests)
    for numbers, logprobs in self._scored(pairs, self.lm.logprob_batch):
      for k, logprob in zip(numbers, logprobs, strict=True):
        found[owners[k]] += logprob
    for request, value in zip(requests, found, strict=True):
      self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
    return found

  def generate_until(self, requests: Sequence[Instance]) -> list[str]:
    """Draws texts after contexts, up to the tasks' stop strings.

    Args:
      requests: contexts, and the harness's sampling settings: `until`,
        `max_gen_toks`, `do_sample`, `temperature`, `top_p`, `top_k`, `min_p`.

    Raises:
      ValueError: a task gives another setting.
    """
    found = [""] * len(requests)
    with _runtime.progress(len(requests), unit="text") as bar:
      for numbers, key, settings in self._batches(requests):
        until = settings.pop("until")
        tokens = settings.pop("max_gen_toks")
        contexts = [self._context(requests[k].args[0], tokens) for k in numbers]
        samples = self.lm.sample(
          contexts,
          key,
          math.ceil(tokens * self.bytes_per_token),
          stop=tuple(stop.encode() for stop in until),
          **settings,
        )
        for k, sample in zip(numbers, samples, strict=True):
          # The last character may lack its end.
          text = sample.text.decode("utf-8", "ignore")
          found[k] = utils.postprocess_generated_text(text, until, None)
          self.cache_hook.add_partial(
            "generate_until", requests[k].args, found[k]
          )
          bar.advance(sample.reason)
        _runtime.forget_compiled()
    return found

  def _fitted(self, context: str, text: str) -> tuple[bytes, bytes]:
    """A context and a continuation, as bytes that there is room for."""
    before, after = context.encode(), text.encode()
    whole = self.windows.working(before + after)
    if self.windows.fits(whole):
      return before, after
    kept, after = self.windows.tail(whole), self.windows.working(after)
    if len(kept) < len(after):
      raise byteprob.PromptError(
        f"There is no room in the context for {len(after)} bytes that are to"
        f" be scored ({text[:30]!r}...); give a larger max_length."
      )
    return kept[: len(kept) - len(after)], after

  def _context(self, context: str, tokens: int) -> bytes:
    """A context after which there is room for so many tokens."""
    text = self.windows.working(context.encode())
    if self.windows.fits(text, tokens):
      return text
    kept = self.windows.tail(text, tokens)
    if not kept:
      raise byteprob.PromptError(
        f"There is no room in the context for {tokens} tokens to be drawn;"
        " give a larger max_length or a smaller max_gen_toks."
      )
    return kept

  def _scored(
    self,
    pairs: Sequence[tuple[bytes, bytes]],
    score: Callable[[Sequence[bytes], Sequence[bytes]], list[Any]],
  ) -> Iterator[tuple[list[int], list[Any]]]:
    """Numbers of pairs and what they score, the longest first."""
    order = sorted(
      range(len(pairs)), key=lambda k: sum(map(len, pairs[k])), reverse=True
    )
    with _runtime.progress(len(pairs), unit="text") as bar:
      for first in range(0, len(order), SIDE_BY_SIDE):
        numbers = order[first : first + SIDE_BY_SIDE]
        contexts, texts = zip(*(pairs[k] for k in numbers), strict=True)
        yield numbers, score(texts, contexts)
        for k in numbers:
          bar.advance(f"{sum(map(len, pairs[k]))} bytes")
        _runtime.forget_compiled()

  def _greedy(
    self,
    texts: Sequence[bytes],
    logprobs: Sequence[Float[np.ndarray, " n"]],
  ) -> list[bool]:
    """Whether each of the last bytes of texts is the likeliest where it is.

    Their log-probs decide on most: nothing is likelier than what has more
    than half, and the likeliest has a 257th at least. Where they do not, the
    whole distribution is asked for, at the least likely byte first.
    """
    texts = [self.windows.working(text) for text in texts]
    greedy = [bool(values.min(initial=0) > UNLIKELY) for values in logprobs]
    unsure = [
      # The last of them is the least likely.
      (len(text) - len(values) + np.argsort(-values)).tolist()[
        np.count_nonzero(values > LIKELIEST) :
      ]
      for text, values in zip(texts, logprobs, strict=True)
    ]
    while asked := [k for k, left in enumerate(unsure) if greedy[k] and left]:
      cuts = {k: unsure[k].pop() for k in asked}
      # Choices after one context are often unsure at the same place.
      contexts = list(dict.fromkeys(texts[k][:at] for k, at in cuts.items()))
      rows = self.lm.next_byte_logprobs_batch(contexts)
      likeliest = dict(zip(contexts, map(np.argmax, rows), strict=True))
      for k, at in cuts.items():
        greedy[k] = bool(likeliest[texts[k][:at]] == texts[k][at])
    return greedy

  def _batches(
    self, requests: Sequence[Instance]
  ) -> Iterator[tuple[list[int], jax.Array, dict[str, Any]]]:
    """Numbers of requests to be drawn together, with their key and settings.

    What is drawn at random goes with what is drawn after the same context, so
    that it does not depend on what else is asked.
    """
    groups = collections.defaultdict(list)
    for k, request in enumerate(requests):
      settings = self._settings(request.args[1])
      context = "" if settings["greedy"] else request.args[0]
      groups[repr(settings), context].append((k, settings))
    key = jax.random.key(self.seed)
    for (_, context), members in groups.items():
      own = jax.random.fold_in(key, zlib.crc32(context.encode()))
      settings = members[0][1]
      size = self.batch_size if settings["greedy"] else len(members)
      numbers = sorted(
        (k for k, _ in members),
        key=lambda k: len(requests[k].args[0]),
        reverse=True,
      )
      for first in range(0, len(numbers), size):
        yield numbers[first : first + size], own, dict(settings)

  def _settings(self, asked: dict[str, Any]) -> dict[str, Any]:
    """Translates the harness's sampling settings to our names."""
    given = utils.normalize_gen_kwargs(asked, self.max_gen_toks)
    until = utils.handle_stop_sequences(given.pop("until"), None)
    tokens, sampled = given.pop("max_gen_toks"), given.pop("do_sample")
    controls = {name: given.pop(name) for name in CONTROLS if name in given}
    for name, value in given.items():
      if NEUTRAL.get(name) != value:
        raise byteprob.ByteprobError(
          f"A task asks for {name}={value!r}, and bytes are drawn with"
          f" {', '.join(CONTROLS)} alone; take it from the task's"
          " generation_kwargs."
        )
    greedy = not sampled or controls.get("temperature") == 0
    return {
      "until": [stop for stop in until if stop],
      "max_gen_toks": tokens,
      "greedy": greedy,
      **({} if greedy else controls),
    }


def load(
  names: str, strategy: str, weights: str, dtype: str, validity: str
) -> byteprob.ByteLM | byteprob.Ensemble:
  """A model, or an ensemble; see `ByteprobLM`.

  Raises:
    ValueError: strategy or weights make no sense.
  """
  lms = [
    byteprob.load(name, dtype=dtype, validity=validity)
    for name in names.split(JOINS)
  ]
  if len(lms) == 1:
    return lms[0]
  try:
    found = [float(weight) for weight in weights.split(JOINS) if weights]
  except ValueError:
    raise ValueError(
      f"weights are numbers with {JOINS} between, not {weights!r}"
    ) from None
  return byteprob.Ensemble(lms, strategy, weights=found or None)
