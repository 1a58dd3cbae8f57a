"""Host: Tables, all that the device knows of a tokenizer."""

import dataclasses

import jax

STATIC = {"static": True}
"""Marks the fields that functions are compiled for."""

VERSION = 5
"""Of the layout and meaning of the arrays; a part of the cache's key."""

SCALE = 36
"""Scores of pieces are counted in multiples of `2**-SCALE`."""

LIMB = 30
"""Bits of the low one of the two numbers that a score is kept in."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Info:
  """Properties of a tokenizer that the host needs to prepare a text.

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
  """Tokens that BPE forbids after a token inside a piece; see `bpe.Runs`.

  `Y` tokens in sorted order, `R` runs, `G` segments, `F` spine symbols.

  Attributes:
    position: `int32[Y]` place in the order in which the runs are runs.
    start, stop: `int32[R]` the runs, sorted by (left part, time).
    segment_of: `int32[Y + 1]`, segment: `int32[G, 3]` the runs that a token
      forbids: the first, the one past the last, the symbol they belong to.
    spine_of: `int32[Y + 1]`, spine: `int32[F]` left spines.
    pair: `int32[S, 3]` hash table of the merges' two parts (`cuckoo.slots`):
      the run, the right part, the run's start; -1 in empty slots.
    segments, spines: the largest number for one token of each.
  """

  position: jax.Array
  start: jax.Array
  stop: jax.Array
  segment_of: jax.Array
  segment: jax.Array
  spine_of: jax.Array
  spine: jax.Array
  pair: jax.Array
  segments: int = dataclasses.field(metadata=STATIC)
  spines: int = dataclasses.field(metadata=STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LongestMatchTables:
  """Tokens that a longer match forbids inside a piece.

  Made by `longest_match.compile_longest_match`.

  A *pending* match is a trie node `v` and a type (whether it began inside a
  piece), as the number `2 v + type`. `Y` tokens, `M` trie nodes, `R` runs,
  `T` bytes of all tokens.

  Attributes:
    node: `int32[Y]` trie node of each token.
    inside: `int32[Y]` its type.
    begin: `int32[Y]`, spelled: `uint8[T]` its bytes.
    open: `bool[2 M]` whether a longer token may still match.
    link: `int32[2 M]` the next pending match of the same tokens, -1 for none.
    run_of: `int32[2 M + 1]`, low, high: `int32[R]` runs of the tokens that
      would complete a longer match of this or of the next ones, ascending.
    runs: the largest number of runs of one.
  """

  node: jax.Array
  inside: jax.Array
  begin: jax.Array
  spelled: jax.Array
  open: jax.Array
  link: jax.Array
  run_of: jax.Array
  low: jax.Array
  high: jax.Array
  runs: int = dataclasses.field(metadata=STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class UnigramTables:
  """Scores, and what a better path forbids; see `unigram.compile_unigram`.

  Scores are whole numbers of `2**-SCALE`, in two limbs: `high * 2**LIMB +
  low`, `0 <= low < 2**LIMB`. `Y` tokens, `M` trie nodes, `T` suffixes, `E`
  entries.

  Attributes:
    high, low: `int32[Y]` score of each token, 0 where it is no piece.
    depth: `int32[M]` bytes of each trie node.
    suffix_of: `int32[Y]`, suffix: `int32[T]` trie node of a token without its
      first `d` bytes, at `suffix_of + d - 1`; -1 if it begins no token.
    entry_token, entry_node: `int32[E]` a token and the trie node of its first
      bytes.
    entry_high, entry_low: `int32[E]` the token may not stand where a path
      that crosses into it up to there is better by more than this.
  """

  high: jax.Array
  low: jax.Array
  depth: jax.Array
  suffix_of: jax.Array
  suffix: jax.Array
  entry_token: jax.Array
  entry_node: jax.Array
  entry_high: jax.Array
  entry_low: jax.Array


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
    child: `int32[S, 2]` hash table of nodes and bytes (`cuckoo.slots`): the
      node's number times 256, plus the byte (the product wraps around), and
      the child; -1 in empty slots.
    next: `int32[Q, K]` state after a token of a kind, -1 where it cannot be.
    cut: `int32[Q]` state after a cut, -1 where none can be.
    ends: `bool[Q]` whether the text may end here.
    end_ids: `int32[E]` model ids that mean the end of the text.
    forms: the laws of the normalization form, where the tokenizer has one.
    bpe, longest_match, unigram: for the rule of this name, None for the others.
    rule: how pieces become tokens.
    start: state at the start of a text; `start_inside`: at the start of a
      later segment; `start_bare`: of one that no space is put before.
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
  child: jax.Array
  next: jax.Array
  cut: jax.Array
  ends: jax.Array
  end_ids: jax.Array
  forms: tuple[FormTables, ...]
  bpe: BpeTables | None
  longest_match: LongestMatchTables | None
  unigram: UnigramTables | None
  rule: str = dataclasses.field(metadata=STATIC)
  start: int = dataclasses.field(metadata=STATIC)
  start_inside: int = dataclasses.field(metadata=STATIC)
  start_bare: int = dataclasses.field(metadata=STATIC)
  hypotheses: int = dataclasses.field(metadata=STATIC)
  longest: int = dataclasses.field(metadata=STATIC)
  most_twins: int = dataclasses.field(metadata=STATIC)
  info: Info = dataclasses.field(metadata=STATIC)
