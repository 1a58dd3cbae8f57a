"""Host: several language models over bytes, as one.

The members may have any tokenizers: they meet in bytes. What they say of the
next byte becomes one distribution by a rule of `pooling`, which also says what
becomes of a byte that a member cannot spell.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from byteprob import arguments, pooling, prompt
from byteprob.bytemodel import ByteModel
from byteprob.engine import batch as engine
from byteprob.errors import PromptError
from byteprob.lm import ByteLM
from byteprob.plan import round_up_to_bucket
from byteprob.pooling import Pool
from byteprob.prompt import Text

Strategy = Literal["mixture", "bayes", "product", "proxy", "vote", "rank"]

RULES: dict[Strategy, pooling.Rule] = {
  "mixture": pooling.mixture,
  "bayes": pooling.mixture,
  "product": pooling.product,
  "proxy": pooling.proxy,
  "vote": pooling.vote,
  "rank": pooling.rank,
}


class Told(NamedTuple):
  """Next-byte log-probs of all `K` members along a text of `n` bytes.

  Attributes:
    rows: `float32[n + 1, K, 257]` log-probs of the byte after the context and
      after each byte of the text; -inf everywhere where a member cannot spell
      the bytes so far.
    before: `float64[K]` log-prob of the context.
  """

  rows: Float[np.ndarray, "m K 257"]
  before: Float[np.ndarray, " K"]


class Ensemble(ByteModel):
  """Several `ByteLM`s as one model over bytes.

  Strategies:

    mixture  the mean of the members' next-byte probabilities (the paper's)
    bayes    the same with weights that follow each member's likelihood of the
             context and the text so far: `P(text) = sum_k w_k P_k(text)`
    product  the normalized product of their powers, the weights: with equal
             ones the geometric mean
    proxy    of three members, base, expert and anti-expert: the base's
             probability times the expert's over the anti-expert's
    vote     a byte that most members find the likeliest; among several, by the
             mixture
    rank     in proportion to the mean of one over the rank that each member
             gives to a byte

  `pooling` defines them. A byte that one member cannot spell is impossible for
  a product; for a mixture it has what the others give it, and from there on
  they share among them that member's weight. A mixture or a product of one
  model with itself is that model.

  Attributes:
    members: the models.
    strategy: see above.
    weights: `float64[K]` of the members.
  """

  def __init__(
    self,
    members: Sequence[ByteLM],
    strategy: Strategy = "mixture",
    *,
    weights: Sequence[float] | None = None,
    temperatures: Sequence[float] | None = None,
  ):
    """Joins models.

    Args:
      members: the models.
      strategy: see above.
      weights: of the members, above 0; equal ones if None. For "proxy", the
        power of each member's probability; for all others their sum is made 1.
      temperatures: of the members: the log-probs of each are divided by its
        own, and normalized, before anything else. 1 if None.

    Raises:
      ValueError: one of these makes no sense.
    """
    if strategy not in RULES:
      raise ValueError(
        f"strategy must be one of {', '.join(RULES)}, not {strategy!r}"
      )
    if not members or not all(isinstance(one, ByteLM) for one in members):
      raise ValueError("members must be ByteLMs, at least one")
    count = len(members)
    if strategy == "proxy" and count != 3:
      raise ValueError(
        "proxy tuning takes three members (base, expert, anti-expert), not"
        f" {count}"
      )
    # In log space, where no weight is too large or too small.
    self._prior = arguments.log_positive(
      "weights", weights, count, normalized=strategy != "proxy"
    )
    self.members = tuple(members)
    self.strategy = strategy
    self.weights = np.exp(self._prior)
    self._pool = Pool(
      rule=RULES[strategy],
      follows=strategy == "bayes",
      temperatures=tuple(
        arguments.positive("temperatures", temperatures, count).tolist()
      ),
    )

  def next_byte_logprobs_batch(
    self, contexts: Sequence[Text]
  ) -> list[Float[np.ndarray, "257"]]:
    """`next_byte_logprobs` of many contexts, bytes or strs, side by side."""
    contexts = arguments.texts(contexts)
    empty = [b""] * len(contexts)
    found = self.next_byte_logprobs_along_batch(empty, contexts)
    return [rows[-1] for rows in found]

  def byte_logprobs_batch(
    self,
    texts: Sequence[Text],
    contexts: Sequence[Text] | None = None,
    *,
    eps: float = 0.0,
  ) -> list[Float[np.ndarray, " n"]]:
    """`byte_logprobs` of many texts, side by side, in a pass per member.

    A byte that the strategy makes impossible is at -inf.

    Raises:
      ValueError: `eps` is not 0: bounds of the members' log-probs are none of
        the whole.
    """
    if eps:
      raise ValueError(
        "eps makes lower bounds of a single model's log-probs; an ensemble's"
        " are not bounded by them."
      )
    texts, contexts = arguments.pairs(texts, contexts)
    data = [_bytes(text) for text in texts]
    rows = self.next_byte_logprobs_along_batch(data, contexts)
    return [
      row[np.arange(len(text)), np.frombuffer(text, np.uint8)]
      for row, text in zip(rows, data, strict=True)
    ]

  def logprob_batch(
    self,
    texts: Sequence[Text],
    contexts: Sequence[Text] | None = None,
  ) -> list[float]:
    """`logprob` of many texts, side by side."""
    found = self.byte_logprobs_batch(texts, contexts)
    return [float(values.sum(dtype=np.float64)) for values in found]

  def next_byte_logprobs_along_batch(
    self,
    texts: Sequence[Text],
    contexts: Sequence[Text] | None = None,
  ) -> list[Float[np.ndarray, "m 257"]]:
    """`next_byte_logprobs_along` of many texts, side by side."""
    texts, contexts = arguments.pairs(texts, contexts)
    return [
      self.join(told, text)
      for told, text in zip(self.ask(texts, contexts), texts, strict=True)
    ]

  def ask(
    self,
    texts: Sequence[Text],
    contexts: Sequence[Text] | None = None,
  ) -> list[Told]:
    """Next-byte log-probs of all members along texts, a pass per member.

    `join` combines them. So does `join` of another ensemble that has the same
    members at the same temperatures.

    Raises:
      PromptError: no member can spell a context, a text or its context is
        longer than a member's context, or a member's tokenizer changes it.
    """
    texts, contexts = arguments.pairs(texts, contexts)
    befores = [_bytes(context) for context in contexts]
    wholes = [
      before + _bytes(text) for text, before in zip(texts, befores, strict=True)
    ]
    asked = [
      self._ask(number, wholes, befores) for number in range(len(self.members))
    ]
    found = [
      Told(
        np.stack([rows for rows, _ in own], 1),
        np.array([before for _, before in own]),
      )
      for own in zip(*asked, strict=True)
    ]
    for told, before in zip(found, befores, strict=True):
      if np.isneginf(told.before).all():
        self._refuse(before)
    return found

  def _refuse(self, context: bytes) -> None:
    """Says why no member can spell a context, in the first one's words."""
    with self._named(0):
      self.members[0].next_byte_logprobs(context)

  def _ask(
    self, number: int, wholes: Sequence[bytes], befores: Sequence[bytes]
  ) -> list[tuple[np.ndarray, float]]:
    """One member's rows after contexts, and its log-probs of these."""
    member = self.members[number]
    temperature = self._pool.temperatures[number]
    # Only of all rows of a context can its tempered probability be told.
    whole = self._pool.follows and temperature != 1
    sizes = [prompt.spellable(member.tables.info, text) for text in wholes]
    some = [
      k
      for k, (size, before) in enumerate(zip(sizes, befores, strict=True))
      if size >= len(before)
    ]
    cuts = [0 if whole else len(befores[k]) for k in some]
    with self._named(number):
      rows = member.along_batch(
        [wholes[k][cut : sizes[k]] for k, cut in zip(some, cuts, strict=True)],
        [wholes[k][:cut] for k, cut in zip(some, cuts, strict=True)],
      )
    found = [
      (
        np.full((len(text) - len(before) + 1, 257), -np.inf, np.float32),
        -np.inf,
      )
      for text, before in zip(wholes, befores, strict=True)
    ]
    for k, cut, (own, total) in zip(some, cuts, rows, strict=True):
      if len(own) != sizes[k] - cut + 1:
        raise PromptError(
          f"Member {number}'s tokenizer puts the text in another form, and"
          " members can only meet in the same bytes: give it in Unicode's NFC,"
          " and without a space at its beginning."
        )
      if temperature != 1:
        own = own / temperature
        with np.errstate(invalid="ignore"):
          own -= np.logaddexp.reduce(own, 1, keepdims=True)
        own = np.where(np.isnan(own), -np.inf, own)
      start = len(befores[k]) - cut
      text = np.frombuffer(wholes[k][cut : cut + start], np.uint8)
      total += own[np.arange(start), text].sum(dtype=np.float64)
      found[k][0][: len(own) - start] = own[start:]
      found[k] = found[k][0], float(total)
    return found

  def join(self, told: Told, text: Text) -> Float[np.ndarray, "m 257"]:
    """Log-probs of the next byte along a text, from what the members say.

    Args:
      told: from `ask`, of this text.
      text: the text.
    """
    data = np.frombuffer(_bytes(text), np.uint8)
    size = round_up_to_bucket(len(data) + 1)
    rows = np.full((size, *told.rows.shape[1:]), -np.inf, np.float32)
    rows[: len(told.rows)] = told.rows
    byte = np.zeros(size - 1, np.int32)
    byte[: len(data)] = data
    share = self._share(told.before)
    found = _join(self._pool, rows, share.astype(np.float32), byte)
    return np.asarray(found[: len(data) + 1])

  def _share(self, before: Float[np.ndarray, " K"]) -> np.ndarray:
    """Logs of the members' shares after a context of these log-probs."""
    if not self._pool.follows:
      return self._prior
    grown = self._prior + before
    return grown - np.logaddexp.reduce(grown)

  @contextlib.contextmanager
  def _named(self, number: int) -> Iterator[None]:
    """Says which member cannot read a text."""
    try:
      yield
    except PromptError as error:
      raise PromptError(f"Member {number}: {error}") from error

  def _batch(self, contexts: Sequence[Text], **rest: Any) -> engine.Batch:
    texts = [_bytes(context) for context in contexts]
    spelled = np.array(
      [
        prompt.spellable(member.tables.info, text) == len(text)
        for member in self.members
        for text in texts
      ]
    ).reshape(len(self.members), len(texts))
    for text, some in zip(texts, spelled.any(0), strict=True):
      if not some:
        self._refuse(text)
    readers = []
    for number, (member, own) in enumerate(
      zip(self.members, spelled.tolist(), strict=True)
    ):
      read = [
        text if able else b"" for text, able in zip(texts, own, strict=True)
      ]
      with self._named(number):
        reader = member.reader(read)
      readers.append(dataclasses.replace(reader, spelled=tuple(own)))
    return engine.Batch(
      readers,
      pool=self._pool,
      log_weights=self._log_weights(contexts),
      **rest,
    )

  def _continues(self, texts: Sequence[bytes], more: Sequence[bytes]) -> bool:
    for number, member in enumerate(self.members):
      info = member.tables.info
      if any(
        prompt.spellable(info, text + new) < len(text) + len(new)
        for text, new in zip(texts, more, strict=True)
      ):
        return False
      with self._named(number):
        if not member._continues(texts, more):
          return False
    return True

  def _log_weights(self, contexts: Sequence[Text]) -> Float[np.ndarray, "B K"]:
    """Logs of the members' weights after contexts."""
    if not self._pool.follows:
      return np.tile(self._prior, (len(contexts), 1))
    told = self.ask([b""] * len(contexts), contexts)
    return np.array([self._share(one.before) for one in told])


@functools.partial(jax.jit, static_argnums=0)
def _join(pool: Pool, rows, share, byte):
  """Pooled rows `[m, 257]` along a text; the rows are at their temperatures."""
  share = pooling.shares(pool, share[None], rows[None, :-1], byte[None])[0]
  return pooling.combine(pool, rows, share)


def _bytes(text: Any) -> bytes:
  """A context's or text's bytes.

  Raises:
    PromptError: it holds token ids, which mean nothing to other members.
  """
  if isinstance(text, str | bytes | bytearray):
    return prompt.as_bytes(text)
  raise PromptError(
    "An ensemble's contexts and texts are bytes or str: token ids mean"
    " something else to each member."
  )
