"""Host: texts drawn token by token, after a cover or after plain tokens.

Cover sampling draws one token sequence of all that stand for the context, in
proportion to its probability, and goes on from there: what comes out has the
byte-level model's own law, at one model call a token. The baselines go on
from the context's encoding, less its last tokens.

Sources: token healing, Lundberg 2023, "The Art of Prompt Design: Prompt
Boundaries and Token Healing"; token alignment, Athiwaratkun et al. 2024,
"Token Alignment via Character Matching for Subword Completion"; cover sampling
is ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from byteprob import rules, scoring
from byteprob.engine.batch import stop_table
from byteprob.engine.generate import ENDED, IMPOSSIBLE, RUNNING
from byteprob.plan import ScoringQuery, round_up_to_bucket
from byteprob.sampling import tokenloop
from byteprob.sampling.batch import REASONS, Reason
from byteprob.sampling.params import Common
from byteprob.sampling.starts import Prompt, Start, draw_covers, fill, join
from byteprob.sampling.tokendraw import How
from byteprob.sampling.tokenloop import Limits, State
from byteprob.sampling.trail import Read, Spelling, Stands
from byteprob.token_tree import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import Model

Method = Literal["cover", "token", "healing", "alignment"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSamplingParams(Common):
  """How texts are drawn, token by token; see `Common`.

  Attributes:
    method: where to go on from: a drawn "cover" of the context, or its
      encoding: all of it ("token"), without its last token, whose bytes the
      next one must start with ("healing"), or without the last few, whose
      bytes the next ones must spell ("alignment").
    backup: how many tokens "alignment" takes back; 3 is the paper's choice.
  """

  method: Method = "cover"
  backup: int = 3

  def __post_init__(self):
    """Checks the values.

    Raises:
      ValueError: one makes no sense.
    """
    super().__post_init__()
    if self.method not in get_args(Method):
      raise ValueError(
        f"method must be one of {get_args(Method)}, not {self.method!r}"
      )
    if self.backup < 1:
      raise ValueError(f"backup must be at least 1, not {self.backup}")

  @property
  def likely_tokens(self) -> int:
    """How many tokens room is made for at first: one for two bytes."""
    return self.max_bytes // 2 + 1

  @property
  def taken_back(self) -> int:
    """How many tokens of the encoding are taken back."""
    return {"healing": 1, "alignment": self.backup}.get(self.method, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSample:
  """A text that was drawn token by token.

  Attributes:
    text: its bytes after the context.
    tokens: model ids of the whole sequence: what comes before the text, the
      tokens that stand for the context, and those drawn; not the end's. The
      last may spell more than the text, if that was cut.
    logprobs: `float32[t]` log-prob of each token drawn, the last `t` of
      `tokens`, in nats, by the model itself: before temperature and the like,
      and whatever bytes they had to start with; one more for the end, if the
      text ended. After a cover they are masked and renormalized, and the
      first has the cover's own log-prob given the context in it: together
      they are the log-prob of what was drawn.
    reason: see `Sample`.
    calls: model calls on one token; the first is on the context's last.
  """

  text: bytes
  tokens: tuple[int, ...]
  logprobs: Float[np.ndarray, " t"]
  reason: Reason
  calls: int


def from_tokens(
  model: Model,
  tables: Tables,
  spelling: Spelling,
  starts: Sequence[Start],
  settings: TokenSamplingParams,
) -> list[TokenSample]:
  """Goes on from token ids, with no law but the model's own.

  Args:
    model, tables, spelling: the model and its tokenizer.
    starts: where the texts start.
    settings: how they are drawn.

  Raises:
    PromptError: there are more ids than the model's context has room for.
  """
  cache = fill(model, starts, settings.likely_tokens)
  return _Decoder(model, tables, spelling, starts, settings, cache).run()


def from_covers(
  model: Model,
  tables: Tables,
  spelling: Spelling,
  prompts: Sequence[Prompt],
  settings: TokenSamplingParams,
  *,
  trust_model: bool = False,
) -> list[TokenSample]:
  """Draws a cover of each prompt, and goes on from it.

  Args:
    model, tables, spelling: the model and its tokenizer.
    prompts: the prompts.
    settings: how texts are drawn. The node that a cover's last token follows
      is drawn as likely as it is, or the likeliest if `greedy`: the other
      controls are for the tokens.
    trust_model: see `lemma.rows`.

  Raises:
    PromptError: a prompt is longer than the model's context, or the model's
      logits are not numbers.
  """
  drawn = draw_covers(
    model,
    tables,
    prompts,
    settings.likely_tokens,
    greedy=settings.greedy,
    trust_model=trust_model,
  )
  decoder = _Decoder(
    model, tables, spelling, drawn.starts, settings, drawn.cache
  )
  if not trust_model:
    queries = [prompt.query for prompt in prompts]
    decoder.keep_law(queries, drawn.nodes, drawn.node)
  return decoder.run()


class _Decoder:
  """A batch of texts under way."""

  def __init__(self, model, tables, spelling, starts, settings, cache):
    self._model, self._tables, self._spelling = model, tables, spelling
    self._starts, self._settings = starts, settings
    self._queries: Sequence[ScoringQuery] = ()
    matches = {"cover": "beyond", "alignment": "parts"}
    self._limits = Limits(
      slots=jax.tree.leaves(cache)[0].shape[1],
      context_length=model.context_length,
      how=How(
        match=matches.get(settings.method, "starts"),
        greedy=settings.greedy,
        top_k=0 < settings.top_k < model.vocab_size and not settings.greedy,
        top_p=settings.top_p < 1 and not settings.greedy,
      ),
    )
    self._state = _state(tables, starts, settings, cache)

  def keep_law(self, queries, nodes, node):
    """Holds the tokens to the tokenizer's law, from a node of each query."""
    if rules.of(self._tables).LOCAL:
      each = jnp.arange(len(node))
      own = (nodes.token, nodes.states, nodes.forms, nodes.law)
      trail = Stands(*jax.tree.map(lambda leaf: leaf[each, node], own))
    else:
      self._queries = queries
      trail = self._read(queries, node)
    self._state = self._state._replace(trail=trail)

  def run(self) -> list[TokenSample]:
    """Draws the texts."""
    while True:
      self._state = tokenloop.run(
        self._model.extend,
        self._limits,
        self._tables,
        self._model.params,
        self._spelling,
        self._settings.warpers(self._model.vocab_size),
        _stops(self._settings.stop),
        self._state,
      )
      full = bool(tokenloop.full(self._limits, self._state))
      if not full and not self._state.crowded:
        return self._samples()
      if full:
        self._more_slots()
      else:
        self._more_law()

  def _more_slots(self):
    slots = round_up_to_bucket(self._limits.slots + self._limits.slots // 2)
    more = slots - self._limits.slots

    def grow(leaf):
      return jnp.pad(leaf, ((0, 0), (0, more), *[(0, 0)] * (leaf.ndim - 2)))

    cache = jax.tree.map(grow, self._state.cache)
    self._state = self._state._replace(cache=cache)
    self._limits = dataclasses.replace(self._limits, slots=slots)

  def _more_law(self):
    """More room for what the tokenizer's law knows; the rest is as it was."""
    trail = self._state.trail
    if isinstance(trail, Stands):

      def twice(leaf):
        more = ((0, 0), (0, leaf.shape[1]), *[(0, 0)] * (leaf.ndim - 2))
        return jnp.pad(leaf, more, constant_values=NONE)

      trail = trail._replace(
        states=twice(trail.states), law=jax.tree.map(twice, trail.law)
      )
    else:
      # Nodes are numbered as they were, whatever the room.
      read = [
        dataclasses.replace(query, text=query.text + spelled[len(start.rest) :])
        for query, start, spelled in zip(
          self._queries, self._starts, self._spelled(), strict=True
        )
      ]
      trail = self._read(read, trail.node)
    self._state = self._state._replace(trail=trail, crowded=jnp.bool_(False))

  def _read(self, queries, node) -> Read:
    """All nodes of texts, and room for those to come."""
    more = round_up_to_bucket(self._settings.max_bytes) + self._tables.longest
    capacity, read = scoring.read_on(
      self._tables, queries, more, self._limits.capacity
    )
    self._limits = dataclasses.replace(self._limits, capacity=capacity)
    length = jnp.array([len(query.text) for query in queries], jnp.int32)
    return Read(*read, node=node, length=length)

  def _spelled(self) -> list[bytes]:
    """The bytes of the tokens that have been drawn."""
    tokens, count = jax.device_get((self._state.tokens, self._state.count))
    return [
      join(self._tables, self._spelling, row[:many])
      for row, many in zip(tokens, count, strict=True)
    ]

  def _samples(self) -> list[TokenSample]:
    names = ("tokens", "logprob", "count", "length", "status")
    found = jax.device_get([getattr(self._state, name) for name in names])
    samples = []
    for start, spelled, tokens, logprob, count, length, status in zip(
      self._starts, self._spelled(), *found, strict=True
    ):
      known = len(start.rest) or int(start.bare and spelled[:1] == b" ")
      calls = count + (status in (ENDED, IMPOSSIBLE))
      ended = status == ENDED
      samples.append(
        TokenSample(
          text=spelled[known:][:length],
          tokens=(*start.ids, *tokens[:count].tolist()),
          logprobs=logprob[: count + ended],
          reason=REASONS[int(status)],
          calls=0 if start.ended else int(calls),
        )
      )
    return samples


def _stops(stop: Sequence[bytes]):
  """Stop strings as a table of just their size."""
  return stop_table(stop, len(stop), max(map(len, stop), default=1))


def _state(tables, starts, settings, cache) -> State:
  """Texts before their first token."""
  batch = len(starts)
  size = round_up_to_bucket(max(len(start.rest) for start in starts))
  rest = np.zeros((batch, size), np.uint8)
  for row, start in zip(rest, starts, strict=True):
    row[size - len(start.rest) :] = list(start.rest)
  bytes_ = round_up_to_bucket(settings.max_bytes)
  most = size + bytes_
  weight = jnp.array([start.weight for start in starts], jnp.float32)
  ended = jnp.array([start.ended for start in starts])

  def column(values):
    return jnp.array(list(values), jnp.int32)

  return State(
    cache=cache,
    token=column(start.ids[-1] for start in starts),
    position=column(len(start.ids) - 1 for start in starts),
    trail=None,
    rest=jnp.asarray(rest),
    left=column(len(start.rest) for start in starts),
    bare=jnp.array([start.bare for start in starts]),
    weight=weight,
    tokens=jnp.zeros((batch, most), jnp.int32),
    # Where a text ends at once, that is all there is.
    logprob=jnp.zeros((batch, most)).at[:, 0].set(weight),
    count=jnp.zeros(batch, jnp.int32),
    text=jnp.zeros(
      (batch, bytes_ + tables.longest if settings.stop else 0), jnp.uint8
    ),
    length=jnp.zeros(batch, jnp.int32),
    limit=jnp.full(batch, settings.max_bytes, jnp.int32),
    key=jnp.stack([start.key for start in starts]),
    status=jnp.where(ended, ENDED, RUNNING).astype(jnp.int32),
    crowded=jnp.bool_(False),
  )
