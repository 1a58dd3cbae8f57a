"""Host: a `TokenizerSpec`, compiled to `Tables`."""

import dataclasses

import numpy as np

from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import (
  anybytes,
  arrays,
  automaton,
  bpe,
  byte_dfa,
  charclass,
  deadends,
  longest_match,
  nfc,
  regex,
  split_nfa,
  unigram,
  utf8,
)
from byteprob.tokenization.spec import SPACE, TokenizerSpec
from byteprob.tokenization.tables import Tables

_LAWS = {"longest_match": longest_match, "unigram": unigram}


def compile_tables(
  spec: TokenizerSpec, *, key: str, utf8_mode: str = "strict"
) -> Tables:
  """Compiles a tokenizer.

  Args:
    spec: the tokenizer.
    key: digest of what `spec` was read from.
    utf8_mode: "strict", or "any" to extend a byte-level tokenizer to bytes
      that are not UTF-8: such a byte is a character of its own, cut like
      U+FFFD.

  Raises:
    UnsupportedTokenizerError: something cannot be compiled exactly.
  """
  label, cuts, hypotheses = _cut_automaton(spec)
  reader, unspelled = _machine(spec, label, cuts, utf8_mode)
  if utf8_mode == "any":
    hypotheses *= 4  # a cut may stand between the bytes of no character
  tree = None
  lengths = np.array([len(token or b"") for token in spec.tokens])
  possible = lengths > 0
  possible[list(spec.fallback.values())] = True
  whole_only: np.ndarray = np.zeros(0, int)
  if spec.rule == "bpe":
    tree = bpe.derive(spec.merges, np.maximum(lengths, 1), _atoms(spec))
    unmade = possible & ~tree.reachable
    if spec.ignore_merges:
      whole_only = np.flatnonzero(unmade)
    else:
      possible &= tree.reachable

  elif spec.rule == "unigram":
    possible &= unigram.whole(spec)

  added = [token.id for token in sorted(spec.added, key=_added_order)]
  possible[added] = False  # they are read whole
  strings = [
    _symbols(spec, label, id_) if possible[id_] else None
    for id_ in range(spec.size)
  ]
  tokens = automaton.read_tokens(reader, strings, added)
  if len(whole_only):
    law = _ignore_merges(spec, tree, whole_only)
    tokens = automaton.restrict_pieces(tokens, law)
    hypotheses += 1
  if spec.inside is not None:
    tokens = automaton.restrict_pieces(tokens, _inside(spec))
  if spec.rule == "bpe":
    law = bpe.PairLaw(tree, spec.merges)
    tokens = deadends.drop_pairs(tokens, law.allows)
  else:
    tokens = _LAWS[spec.rule].prepare(spec, tokens)
  forms = _forms(spec, possible, added) if spec.nfc else []
  return arrays.assemble(
    spec,
    tokens,
    forms,
    tree,
    hypotheses=hypotheses,
    unspelled=unspelled,
    key=key,
    utf8_mode=utf8_mode,
  )


def _added_order(token):
  """Raw ones are one level, normalized ones the next."""
  return token.normalized, token.id


def _cut_automaton(spec: TokenizerSpec):
  """Character classes and the automaton of marked texts.

  Returns:
    Class of each code point, -1 for those that the working text never holds;
    the automaton; the largest number of its states under way at once.
  """
  trees, sources = [], set()
  for split in spec.splits:
    if split.named:
      tree = regex.Atom(split.pattern)
    elif split.literal:
      tree = regex.literal(split.pattern)
    else:
      tree = regex.parse(split.pattern)
    trees.append(tree)
    sources |= regex.atoms(tree)
  alone = {char for token in spec.added for char in token.text}
  if spec.prefix:
    alone.add(" ")
  if spec.escapes_space:
    alone = {SPACE if char == " " else char for char in alone}
  label, held = charclass.classify(sources, alone)
  if spec.escapes_space:
    label[ord(" ")] = label[ord(SPACE)]
    label[ord(SPACE)] = -1
  classes = int(label.max()) + 1
  everything = frozenset(range(classes))

  parts: list[split_nfa.Level] = []
  if spec.prefix:
    space = int(label[ord(" ")])
    parts.append(split_nfa.PrefixLevel(space, spec.prefix == "unless_space"))
  for normalized in (False, True):
    texts = [
      tuple(int(label[ord(char)]) for char in token.text)
      for token in sorted(spec.added, key=_added_order)
      if token.normalized == normalized
    ]
    if texts:
      parts.append(split_nfa.AddedLevel(texts))
  for split, tree in zip(spec.splits, trees, strict=True):
    program = regex.assemble(tree, held.__getitem__, everything)
    parts.append(split_nfa.SplitLevel(program, split.behavior, split.invert))
  cutting = split_nfa.SplitNfa(parts)
  bare = cutting.start
  if spec.prefix:
    text = (split_nfa.PrefixLevel.TEXT,) + (None,) * (len(parts) - 1)
    bare = frozenset({text})
  inside = bare if spec.prefix_once else cutting.start
  starts = [cutting.start, inside, bare]
  cuts = byte_dfa.explore(cutting, starts, classes)
  return label, cuts, _hypotheses(cuts)


def _hypotheses(cuts: byte_dfa.CutDfa) -> int:
  """How many states the markings of one text can be in at once."""
  begin = {frozenset({start}) for start in cuts.starts}
  seen, queue = set(begin), list(begin)
  for states in queue:
    rows = list(states)
    for char in range(cuts.plain.shape[1]):
      after = frozenset(
        cuts.plain[rows, char].tolist() + cuts.cut[rows, char].tolist()
      ) - {byte_dfa.DEAD}
      if after and after not in seen:
        seen.add(after)
        queue.append(after)
  return max(len(states) for states in seen)


def _machine(spec, label, cuts, utf8_mode):
  """The machine of symbols, and the bytes that cannot be written."""
  if utf8_mode == "any" and spec.char_level and not spec.fallback:
    raise UnsupportedTokenizerError(
      'utf8="any" needs a tokenizer that can spell every byte; this one spells'
      " whole characters only."
    )
  missing = frozenset()
  by_bytes = label
  if spec.char_level:
    atoms = [token for token in spec.tokens if token and _is_char(token)]
    whole = np.zeros(charclass.CODE_POINTS, bool)
    whole[[ord(token.decode()) for token in atoms]] = True
    by_bytes = (
      np.where(whole, -1, label) if spec.fallback else (np.full_like(label, -1))
    )
  else:
    written = {token[0] for token in spec.tokens if token and len(token) == 1}
    missing = frozenset(range(256)) - written
  if utf8_mode == "strict":
    return byte_dfa.build(cuts, utf8.graph(by_bytes, missing)), missing
  # Characters that have tokens of their own get a class that leads nowhere.
  banned = np.where(by_bytes < 0, cuts.plain.shape[1], by_bytes)
  banned[charclass.SURROGATES] = -1
  lone = int(label[ord("\N{REPLACEMENT CHARACTER}")])
  reader = anybytes.build(cuts, utf8.graph(banned), lone, missing)
  return reader, missing


def _is_char(token: bytes) -> bool:
  return len(token.decode("utf-8", "replace")) == 1


def _atoms(spec: TokenizerSpec) -> np.ndarray:
  """The tokens that BPE starts from."""
  atoms = np.array(
    [
      bool(token) and (_is_char(token) if spec.char_level else len(token) == 1)
      for token in spec.tokens
    ]
  )
  atoms[list(spec.fallback.values())] = True
  return atoms


def _forms(spec, possible, added) -> list[automaton.TokenAutomaton]:
  """The automata of the texts that normalizing does not change."""
  found = []
  for label, cuts in nfc.automata():
    # What stands before an added token and after it is normalized alone.
    begin = np.full((len(cuts.ends), len(added)), cuts.starts[0], np.int32)
    cuts = dataclasses.replace(cuts, plain_added=begin, cut_added=begin)
    strings = [
      _symbols(spec, label, id_) if possible[id_] else None
      for id_ in range(spec.size)
    ]
    reader = byte_dfa.build(cuts, utf8.graph(label))
    found.append(automaton.read_tokens(reader, strings, added))
  return found


def _symbols(spec, label, id_) -> np.ndarray | None:
  """Symbols that the machine reads for a token; None if it cannot read it."""
  token = spec.tokens[id_]
  if token is None:
    (byte,) = (b for b, other in spec.fallback.items() if other == id_)
    return np.array([byte])
  if not spec.char_level:
    return np.frombuffer(token, np.uint8).astype(np.int64)
  classes = label[[ord(char) for char in token.decode("utf-8", "replace")]]
  return None if (classes < 0).any() else 256 + classes.astype(np.int64)


def _ignore_merges(spec, tree, whole_only) -> automaton.PieceLaw:
  """A piece that is a token as a whole is that token.

  The law follows the sequences that BPE would make of the tokens that it
  cannot make: they must not be a whole piece.
  """
  spell = {token: id_ for id_, token in enumerate(spec.tokens) if token}
  table = bpe.offers(spec.merges)
  first, others, closed = 0, 1, 2
  steps: dict[int, dict[int, int]] = {first: {}}
  open_: set[int] = set()
  count = 3
  for id_ in whole_only:
    steps[first][int(id_)] = closed
    at = first
    for part in bpe.encode(_characters(spec, id_, spell), table):
      inner = steps.setdefault(at, {})
      if part not in inner:
        inner[part] = count
        count += 1
      at = inner[part]
    open_.add(at)
  return automaton.PieceLaw(
    first=first,
    others=others,
    steps=steps,
    barred=frozenset(int(id_) for id_ in whole_only),
    open=frozenset(open_),
    closed=frozenset({closed}),
  )


def _characters(spec, id_, spell) -> list[int]:
  """The symbols that BPE starts from in a token."""
  token = spec.tokens[id_]
  if spec.char_level:
    return [spell[char.encode()] for char in token.decode()]
  return [spell[bytes([byte])] for byte in token]


def _inside(spec) -> automaton.PieceLaw:
  """Some tokens start a piece, the others go on with it."""
  first, others = 0, 1
  starts = {
    id_: others
    for id_, token in enumerate(spec.tokens)
    if token and id_ not in spec.inside
  }
  inner = dict.fromkeys(spec.inside, others)
  return automaton.PieceLaw(
    first=first,
    others=others,
    steps={first: starts, others: inner},
    barred=frozenset(starts) | spec.inside,
    open=frozenset(),
    closed=frozenset(),
  )
