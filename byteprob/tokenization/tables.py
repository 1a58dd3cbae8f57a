"""Host: Tables, all that the device knows of a tokenizer."""

import dataclasses

import jax

STATIC = {"static": True}
"""Marks the fields that functions are compiled for."""

VERSION = 1
"""Of the layout and meaning of the arrays; a part of the cache's key."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Info:
  """What the host must know to prepare a text.

  Attributes:
    key: digest of everything that the tables were compiled from.
    utf8: "strict" or "any".
    nfc, escapes_space, prefix, prefix_once: see `TokenizerSpec`.
    start_ids: put before a context that does not begin with a token id.
    special: `(text, id)` of the special tokens.
    unspelled: bytes that no token can spell.
    size: number of token ids.
  """

  key: str
  utf8: str
  nfc: bool
  escapes_space: bool
  prefix: str
  prefix_once: bool
  start_ids: tuple[int, ...]
  special: tuple[tuple[str, int], ...]
  unspelled: tuple[int, ...]
  size: int

  # Equal by key, so that tables loaded twice share compiled functions.
  def __eq__(self, other):
    return isinstance(other, Info) and self.key == other.key

  def __hash__(self):
    return hash(self.key)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BpeTables:
  """What may stand next to what inside a piece; see `bpe.Runs`.

  `Y` tokens in sorted order, `R` runs, `G` segments, `F` spine symbols.

  Attributes:
    position: `int32[Y]` place in the order in which the runs are runs.
    start, stop: `int32[R]` the runs, sorted by (left part, time).
    segment_of: `int32[Y + 1]`, segment_start, segment_count, segment_token:
      `int32[G]` the runs that a token forbids, and the symbol they belong to.
    spine_of: `int32[Y + 1]`, spine: `int32[F]` left spines.
    pair_of: `int32[Y + 1]`, pair_right, pair_run: `int32[R]` the merges of
      each left part, sorted by the right part: that part, and the run.
    segments, spines, pairs: the largest number for one token of each.
  """

  position: jax.Array
  start: jax.Array
  stop: jax.Array
  segment_of: jax.Array
  segment_start: jax.Array
  segment_count: jax.Array
  segment_token: jax.Array
  spine_of: jax.Array
  spine: jax.Array
  pair_of: jax.Array
  pair_right: jax.Array
  pair_run: jax.Array
  segments: int = dataclasses.field(metadata=STATIC)
  spines: int = dataclasses.field(metadata=STATIC)
  pairs: int = dataclasses.field(metadata=STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FormTables:
  """A law of the texts in a normalization form, as an automaton over tokens.

  Attributes:
    next: `int16[F, K']` state after a token, -1 if the text would then not be
      in the form.
    kind: `int32[Y]` column of `next`.
    start: state at the start of a text.
  """

  next: jax.Array
  kind: jax.Array
  start: int = dataclasses.field(metadata=STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
  """A tokenizer, compiled. `Y` tokens that spell bytes, sorted by them.

  Everywhere on the device a token is its index in this order; `token_id` is
  the model's number for it.

  Attributes:
    token_id: `int32[Y]`.
    length: `int32[Y]` bytes.
    kind: `int32[Y]` column of `next`.
    twin: `int32[Y]` number of a token among those with its bytes.
    low, high: `int32[M]` tokens below each node of the trie.
    exact: `int32[M]` the first token that is exactly the node's bytes and can
      occur, -1 if there is none.
    twins: `int32[M]` how many such tokens there are.
    equal: `int32[M]` how many tokens are exactly the node's bytes, those that
      cannot occur included; they are the first from `low` on.
    node_byte: `int32[M]` the node's last byte.
    first_child, children: `int32[M]` the node's children.
    next: `int32[Q, K]` state after a token of a kind, -1 where it cannot be.
    cut: `int32[Q]` state after a cut, -1 where none can be.
    ends: `bool[Q]` whether the text may end here.
    end_ids: `int32[E]` model ids that mean the end of the text.
    forms: the laws of the normalization form, where the tokenizer has one.
    bpe: for rule "bpe".
    rule: how pieces become tokens.
    start: state at the start of a text; `start_inside`: at the start of a
      later segment.
    hypotheses: states of one node that room is made for at first.
    longest: bytes of the longest token.
    most_twins: the largest of `twins`.
    info: facts for the host; see `Info`.
  """

  token_id: jax.Array
  length: jax.Array
  kind: jax.Array
  twin: jax.Array
  low: jax.Array
  high: jax.Array
  exact: jax.Array
  twins: jax.Array
  equal: jax.Array
  node_byte: jax.Array
  first_child: jax.Array
  children: jax.Array
  next: jax.Array
  cut: jax.Array
  ends: jax.Array
  end_ids: jax.Array
  forms: tuple[FormTables, ...]
  bpe: BpeTables | None
  rule: str = dataclasses.field(metadata=STATIC)
  start: int = dataclasses.field(metadata=STATIC)
  start_inside: int = dataclasses.field(metadata=STATIC)
  hypotheses: int = dataclasses.field(metadata=STATIC)
  longest: int = dataclasses.field(metadata=STATIC)
  most_twins: int = dataclasses.field(metadata=STATIC)
  info: Info = dataclasses.field(metadata=STATIC)
