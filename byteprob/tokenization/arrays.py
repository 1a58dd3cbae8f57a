"""Host: a compiled tokenizer as arrays, its tokens sorted by their bytes."""

from collections.abc import Sequence

import numpy as np

from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import (
  automaton,
  bpe,
  byte_dfa,
  cuckoo,
  longest_match,
  trie,
  unigram,
)
from byteprob.tokenization.spec import TokenizerSpec
from byteprob.tokenization.tables import BpeTables, FormTables, Info, Tables


def assemble(
  spec: TokenizerSpec,
  tokens: automaton.TokenAutomaton,
  forms: Sequence[automaton.TokenAutomaton],
  tree: bpe.Derivations | None,
  *,
  hypotheses: int,
  unspelled: frozenset[int],
  key: str,
  utf8_mode: str,
) -> Tables:
  """Puts everything in sorted order.

  Args:
    spec: the tokenizer.
    tokens: its automaton.
    forms: those of its normalization form.
    tree: of its merges, for rule "bpe".
    hypotheses: states that one node may be in at once.
    unspelled: bytes that no token spells.
    key, utf8_mode: see `compile_tables`.

  Raises:
    UnsupportedTokenizerError: it has no usable token, or two that cannot be
      told apart.
  """
  alive = (tokens.next != byte_dfa.DEAD).any(0)[tokens.kind]
  for form in forms:
    alive &= (form.next != byte_dfa.DEAD).any(0)[form.kind]
  spelled = list(spec.tokens)
  for byte, id_ in spec.fallback.items():
    spelled[id_] = bytes([byte])
  ids = np.array([id_ for id_, token in enumerate(spelled) if token], int)
  if not alive[ids].any():
    raise UnsupportedTokenizerError("This tokenizer has no token to use.")
  ids = np.array(sorted(ids, key=lambda i: (spelled[i], not alive[i], i)))
  words = [spelled[id_] for id_ in ids]
  nodes, node_of = trie.build(words)
  exact = np.full(len(nodes.low), -1)
  usable = np.flatnonzero(alive[ids])
  exact[node_of[usable][::-1]] = usable[::-1]
  twins = np.bincount(node_of[usable], minlength=len(exact))
  equal = np.bincount(node_of, minlength=len(exact))
  if spec.rule == "bpe" and twins.max(initial=0) > 1:
    at = ids[exact[np.argmax(twins)]]
    raise UnsupportedTokenizerError(
      f"This tokenizer has two usable tokens with the bytes {spelled[at]!r}."
    )

  def int32(values):
    return np.ascontiguousarray(values, np.int32)

  narrow = np.int16 if len(tokens.next) < 2**15 else np.int32
  return Tables(
    token_id=int32(ids),
    length=int32([len(word) for word in words]),
    kind=int32(tokens.kind[ids]),
    twin=int32(np.arange(len(ids)) - nodes.low[node_of]),
    low=int32(nodes.low),
    high=int32(nodes.high),
    exact=int32(exact),
    twins=int32(twins),
    equal=int32(equal),
    node_byte=int32(nodes.byte),
    first_child=int32(nodes.first_child),
    children=int32(nodes.children),
    child=trie.child_table(nodes),
    next=np.ascontiguousarray(tokens.next, narrow),
    cut=int32(tokens.cut),
    ends=tokens.ends,
    end_ids=int32(spec.end),
    forms=tuple(
      FormTables(
        next=np.ascontiguousarray(form.next, np.int16),
        kind=int32(form.kind[ids]),
        start=form.starts[0],
      )
      for form in forms
    ),
    bpe=_bpe_tables(spec, tree, ids) if spec.rule == "bpe" else None,
    longest_match=longest_match.compile_longest_match(
      spec, ids, words, nodes, node_of
    )
    if spec.rule == "longest_match"
    else None,
    unigram=unigram.compile_unigram(spec, ids, words, nodes, node_of)
    if spec.rule == "unigram"
    else None,
    rule=spec.rule,
    start=tokens.starts[0],
    start_inside=tokens.starts[1],
    start_bare=tokens.starts[2],
    hypotheses=hypotheses,
    longest=max(len(word) for word in words),
    most_twins=int(twins.max(initial=1)),
    info=Info(
      key=key,
      utf8=utf8_mode,
      nfc=spec.nfc,
      escapes_space=spec.escapes_space,
      prefix=spec.prefix,
      prefix_once=spec.prefix_once,
      start_ids=spec.start,
      special=tuple(sorted(spec.special.items())),
      unspelled=tuple(sorted(unspelled)),
      size=spec.size,
    ),
  )


def _bpe_tables(spec, tree, ids) -> BpeTables:
  """`bpe.Runs` with tokens in sorted order."""
  runs = bpe.compile_runs(tree, spec.merges)
  order = np.full(spec.size, -1)
  order[ids] = np.arange(len(ids))
  left, right = spec.merges.left[runs.merge], spec.merges.right[runs.merge]

  def rows(offsets, *values):
    """Rows of a ragged list, for the tokens in sorted order."""
    counts = np.diff(offsets)[ids]
    begin = offsets[:-1][ids]
    within = np.arange(counts.sum()) - np.repeat(
      np.cumsum(counts) - counts, counts
    )
    at = np.repeat(begin, counts) + within
    return np.concatenate([[0], np.cumsum(counts)]), *(v[at] for v in values)

  # A segment's symbol owns the runs that it holds.
  symbol = left[runs.segment_start] if len(left) else runs.segment_start
  segment_of, begin, count, symbol = rows(
    runs.segment_of, runs.segment_start, runs.segment_count, symbol
  )
  spine_of, spine = rows(runs.spine_of, runs.spine)
  # Tokens that are not in the tables leave gaps in the order; close them.
  rank = np.full(len(runs.position) + 1, 0)
  rank[runs.position[ids]] = 1
  rank = np.cumsum(rank) - rank

  def int32(values):
    return np.ascontiguousarray(values, np.int32)

  start = int32(rank[runs.start])
  return BpeTables(
    position=int32(rank[runs.position[ids]]),
    start=start,
    stop=int32(rank[runs.stop]),
    segment_of=int32(segment_of),
    segment=int32(np.stack([begin, begin + count, order[symbol]], axis=1)),
    spine_of=int32(spine_of),
    spine=int32(order[spine]),
    pair=_pair_table(int32(order[left]), int32(order[right]), start),
    segments=int(np.diff(segment_of).max(initial=0)),
    spines=int(np.diff(spine_of).max(initial=0)),
  )


def _pair_table(left, right, start) -> np.ndarray:
  """The hash table of the merges; see `BpeTables.pair`."""
  # Of a pair that is there twice the first run holds the other.
  key = left.astype(np.int64) * 2**32 + right
  run = np.unique(key, return_index=True)[1]
  left, right = left[run], right[run]
  return cuckoo.table(left, right, run, right, start[run])
