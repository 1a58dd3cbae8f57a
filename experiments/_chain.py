"""Host: Markov chains of third order, and their tokens' laws in closed form.

A chain over symbols becomes a source of tokens when a tokenizer encodes its
endless texts. That source's law is known without training: a token may come
where the tokenizer can write it, and its probability is that of its symbols,
times the chance that what comes after lets it stand (`h` below), over the same
chance before it. Ours.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from byteprob.tokenization import Tables, compile_tables, huggingface
from byteprob.types import Model

ORDER = 3
START = "<s>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
  """A chain.

  Attributes:
    symbols: its alphabet, `K` characters.
    next: `float64[K, K, K, K]` probability of the next symbol after three.
    rest: `float64[K, K, K]` stationary probability of three symbols.
  """

  symbols: str
  next: np.ndarray
  rest: np.ndarray

  @property
  def entropy(self) -> float:
    """Of a symbol, in nats."""
    return float(-(self.rest[..., None] * self.next * np.log(self.next)).sum())

  def after(self, history: str) -> np.ndarray:
    """`[K]` law of the next symbol; short histories are stationary ones."""
    index = tuple(self.symbols.index(c) for c in history[-ORDER:])
    if len(index) == ORDER:
      return self.next[index]
    joint = self.rest[index]
    joint = joint.reshape(len(self.symbols), -1).sum(1)
    return joint / joint.sum()

  def logprob(self, text: str, history: str) -> float:
    """Log-prob of a text after a history."""
    whole = history + text
    return sum(
      float(np.log(self.after(whole[:at])[self.symbols.index(whole[at])]))
      for at in range(len(history), len(whole))
    )

  def draw(self, rng: np.random.Generator, count: int, size: int) -> list[str]:
    """So many texts of so many symbols."""
    base = len(self.symbols)
    state = rng.choice(self.rest.size, size=count, p=self.rest.ravel())
    cumulated = self.next.reshape(-1, base).cumsum(1)[:, :-1]
    found = np.empty((count, size), np.int64)
    first = np.stack(np.unravel_index(state, self.rest.shape), axis=1)
    found[:, :ORDER] = first[:, :size]
    for at in range(ORDER, size):
      more = (rng.random(count)[:, None] > cumulated[state]).sum(1)
      found[:, at] = more
      state = (state * base + more) % self.rest.size
    letters = np.array(list(self.symbols))
    return ["".join(row) for row in letters[found]]


def random_chain(symbols: str, least: float, seed: int) -> Chain:
  """A chain with random transitions, none of them rarer than `least`."""
  rng = np.random.default_rng(seed)
  base = len(symbols)
  law = rng.dirichlet(np.ones(base), size=(base,) * ORDER)
  law = least + (1 - base * least) * law
  # Three symbols go to three: drop the first, add the next.
  step = np.zeros((base**ORDER, base**ORDER))
  flat = law.reshape(-1, base)
  for state, symbol in itertools.product(range(base**ORDER), range(base)):
    step[state, (state * base + symbol) % base**ORDER] = flat[state, symbol]
  system = np.vstack([step.T - np.eye(len(step)), np.ones(len(step))])
  rest = np.linalg.lstsq(system, np.eye(len(system))[-1], rcond=None)[0]
  return Chain(symbols=symbols, next=law, rest=rest.reshape((base,) * ORDER))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """A tokenizer of a chain's texts.

  Attributes:
    tokenizer: the library's.
    spelled: what each id spells; id 0 is the start.
  """

  tokenizer: tokenizers.Tokenizer
  spelled: tuple[str, ...]

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Their tokens."""
    found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [one.ids for one in found]

  def tables(self) -> Tables:
    """Compiled."""
    raw = json.loads(self.tokenizer.to_str())
    # No text ends: the start stands for the end, and is never drawn.
    spec = huggingface.from_json(raw, {"bos": [0], "eos": [0]})
    return compile_tables(spec, key=self.tokenizer.to_str())


def mpe(symbols: str, words: Sequence[str]) -> Vocabulary:
  """The longest match from the left (the paper's MPE)."""
  spelled = (START, *symbols, *words)
  model = tokenizers.models.WordPiece(
    vocab={piece: k for k, piece in enumerate(spelled)},
    unk_token=START,
    continuing_subword_prefix="",
    max_input_chars_per_word=2**20,
  )
  return _vocabulary(model, spelled)


def bpe(symbols: str, words: Sequence[str]) -> Vocabulary:
  """Byte-pair encoding; each word joins two that come before it."""
  spelled = [START, *symbols]
  merges = []
  for word in words:
    halves = [(word[:at], word[at:]) for at in range(1, len(word))]
    known = [h for h in halves if h[0] in spelled and h[1] in spelled]
    if not known:
      raise ValueError(f"no two tokens before {word!r} join to it")
    merges.append(known[0])
    spelled.append(word)
  model = tokenizers.models.BPE(
    vocab={piece: k for k, piece in enumerate(spelled)}, merges=merges
  )
  return _vocabulary(model, tuple(spelled))


def _vocabulary(model, spelled) -> Vocabulary:
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(START, special=True, normalized=False)]
  )
  return Vocabulary(tokenizer=tokenizer, spelled=tuple(spelled))


RULES = {"mpe": mpe, "bpe": bpe}


def closed_form(chain: Chain, vocabulary: Vocabulary) -> Model:
  """The token-level source itself, as a model.

  What the last tokens that hold `reach` symbols allow is all that matters:
  three symbols for the chain, and for the tokenizer as many as a longer match
  may still take. Let `h(s)` be the chance that a text goes on from such a
  state `s` in a way that the tokenizer lets stand. Then `h(s) = sum_t P(t | s)
  h(s t)` over the tokens that may come, `h = 1` at the start, and the next
  token's law is `P(t | s) h(s t) / h(s)`.
  """
  spelled = vocabulary.spelled
  reach = max(ORDER, max(len(word) for word in spelled[1:]) - 1)

  def shorten(state: tuple[int, ...]) -> tuple[int, ...]:
    size = [len(spelled[token]) for token in state]
    while sum(size[1:]) >= reach:
      state, size = state[1:], size[1:]
    return state

  states: dict[tuple[int, ...], int] = {(): 0}
  edges: list[tuple[int, int, int, float]] = []
  for state in (order := [()]):
    history = "".join(spelled[token] for token in state)
    tokens = range(1, len(spelled))
    texts = [history + spelled[token] for token in tokens]
    for token, ids in zip(tokens, vocabulary.encode(texts), strict=True):
      if tuple(ids) != (*state, token):
        continue
      after = shorten((*state, token))
      if after not in states:
        states[after] = len(states)
        order.append(after)
      chance = np.exp(chain.logprob(spelled[token], history))
      edges.append((states[state], token, states[after], chance))
  count = len(states)
  system = -np.eye(count + 1, count)
  system[count, 0] = 1.0
  for before, _, after, chance in edges:
    system[before, after] += chance
  wanted = np.eye(count + 1)[-1]
  h, *_ = np.linalg.lstsq(system, wanted, rcond=None)
  # A token that no text lets stand leads where the chance is 0.
  h = np.where(abs(h) < 1e-12, 0.0, h)
  if abs(system @ h - wanted).max() > 1e-9 or h.min() < 0:
    raise ArithmeticError("the source's law has not come out")
  law = np.full((count, len(spelled)), -np.inf)
  for before, token, after, chance in edges:
    if h[after]:
      law[before, token] = np.log(chance * h[after] / h[before])
  # What follows there never counts: let it be the end.
  law[h == 0, 0] = 0.0
  width = max(map(len, states))
  rows = np.zeros((len(spelled),) * width + (len(spelled),), np.float32)
  # The model sees the last `width` tokens, however many of them matter.
  for last in itertools.product(range(len(spelled)), repeat=width):
    started = tuple(itertools.dropwhile(lambda token: token == 0, last))
    number = states.get(shorten(started)) if 0 not in started else None
    if number is not None:
      rows[last] = law[number]
  return Model(
    init_cache=init_cache,
    extend=extend,
    params=jnp.asarray(rows),
    vocab_size=len(spelled),
    context_length=4096,
  )


def init_cache(batch: int, capacity: int) -> dict[str, jax.Array]:
  """See `byteprob.types.InitCache`."""
  # Two arrays, since each is given up for a new one.
  return {
    name: jnp.zeros((batch, capacity), jnp.int32)
    for name in ("tokens", "positions")
  }


def extend(params, cache, tokens, positions, slots, mask):
  """See `byteprob.types.Extend`; `params[t, u]` is the row after `t`, `u`.

  Where there are fewer tokens, the first are 0.
  """
  batch = jnp.arange(len(tokens))[:, None]
  cache = {
    name: cache[name].at[batch, slots].set(new, mode="drop")
    for name, new in (("tokens", tokens), ("positions", positions))
  }
  back = positions[:, :, None] - cache["positions"][:, None, :]
  last = [
    jnp.where(mask & (back == k), cache["tokens"][:, None, :], 0).max(2)
    for k in reversed(range(params.ndim - 1))
  ]
  return params[tuple(last)], cache
