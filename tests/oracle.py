"""Host: a brute-force byte-level model, to check the library against.

Nothing of the library is used here. The tokenizer is a black box that encodes
texts: a token sequence is *canonical* if it is the encoding of some text, and
*prefix-canonical* if some continuation of its text has it as a prefix, which
is found out by trying continuations. The fake model's rows are then masked
and renormalized node by node, in float64.

The alphabet is closed: the tokens spell no character outside it, or all the
characters outside it are treated alike and some stand for them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

EOS = 256

Node = tuple[int, ...]
Encode = Callable[[list[str]], list[Node]]


def library(tokenizer) -> Encode:
  """Encodes with the tokenizers library: no special tokens, none parsed."""
  tokenizer.encode_special_tokens = True

  def encode(texts: list[str]) -> list[Node]:
    found = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [tuple(each.ids) for each in found]

  return encode


class Oracle:
  """What a tokenizer can write, by trying.

  Attributes:
    spelled: bytes of each token id in the working text, None for none.
    ends: ids that mean the end of the text.
  """

  def __init__(
    self,
    encode: Encode,
    spelled: Sequence[bytes | None],
    alphabet: Sequence[str],
    *,
    ahead: int,
    ends: Sequence[int],
    prefixed: bool = False,
    others: Sequence[str] | None = None,
  ):
    """Makes the oracle of a tokenizer.

    Args:
      encode: the tokenizer.
      spelled: see above.
      alphabet: characters that continuations are made of.
      ahead: how many of them are tried after a whole character.
      ends: see above.
      prefixed: the tokenizer may put a space before the text.
      others: characters outside the alphabet can be spelled too; these and a
        few more complete an unfinished character. None if they cannot.
    """
    self.spelled = list(spelled)
    self.ends = list(ends)
    self._encode = encode
    self._alphabet = {char: char.encode() for char in alphabet}
    self._tails = [
      "".join(tail)
      for size in range(ahead + 1)
      for tail in itertools.product(alphabet, repeat=size)
    ]
    self._prefixed = prefixed
    self._others = None if others is None else [c.encode() for c in others]
    self._encoded: dict[str, Node] = {}
    self._at: dict[bytes, frozenset[Node]] = {b"": frozenset({()})}
    self._laws: dict[Node, tuple[list[int], bool]] = {}

  def encode(self, texts: Sequence[str]) -> list[Node]:
    """What the tokenizer makes of texts; each is asked for once."""
    new = [t for t in dict.fromkeys(texts) if t not in self._encoded]
    if new:
      self._encoded |= zip(new, self._encode(new), strict=True)
    return [self._encoded[text] for text in texts]

  def bytes_of(self, node: Node) -> bytes:
    """The working text that a node spells."""
    return b"".join(self.spelled[token] for token in node)

  def texts(self, working: bytes) -> list[str]:
    """Texts whose working text may be this."""
    found = [working.decode()]
    if self._prefixed and working.startswith(b" "):
      found.append(found[0][1:])
    return found

  def nodes_at(self, working: bytes) -> frozenset[Node]:
    """The prefix-canonical sequences that spell exactly these bytes."""
    if working not in self._at:
      found = set()
      texts = [t for z in self._probes(working) for t in self.texts(z)]
      for ids in self.encode(texts):
        size = 0
        for count, token in enumerate(ids, 1):
          size += len(self.spelled[token])
          if size >= len(working):
            if size == len(working) and self.bytes_of(ids[:count]) == working:
              found.add(ids[:count])
            break
      self._at[working] = frozenset(found)
    return self._at[working]

  def law(self, node: Node) -> tuple[list[int], bool]:
    """The tokens that may follow a node, and whether it is canonical."""
    if node not in self._laws:
      working = self.bytes_of(node)
      kids = [
        token
        for token, piece in enumerate(self.spelled)
        if piece and (*node, token) in self.nodes_at(working + piece)
      ]
      try:
        texts = self.texts(working)
      except UnicodeDecodeError:
        texts = []
      self._laws[node] = kids, node in self.encode(texts)
    return self._laws[node]

  def nodes(self, working: bytes) -> list[Node]:
    """All nodes of a text, by their ends."""
    found: list[Node] = [()]
    for node in found:
      rest = working[len(self.bytes_of(node)) :]
      found += [
        (*node, token)
        for token in self.law(node)[0]
        if rest.startswith(self.spelled[token])
      ]
    return sorted(found, key=lambda node: len(self.bytes_of(node)))

  def _probes(self, working: bytes) -> Iterator[bytes]:
    """Texts that start with these bytes."""
    whole = working
    for cut in range(min(4, len(working) + 1)):
      whole = working[: len(working) - cut]
      try:
        whole.decode()
      except UnicodeDecodeError:
        continue
      break
    else:
      return
    part = working[len(whole) :]
    for char in self._completions(part) if part else [b""]:
      for tail in self._tails:
        yield whole + char + tail.encode()

  def _completions(self, part: bytes) -> list[bytes]:
    """Characters that begin with these bytes."""
    found = [c for c in self._alphabet.values() if c.startswith(part)]
    if self._others is not None:
      found += [c for c in self._others if c.startswith(part)]
      found += [c for c in characters_after(part) if c not in found]
    return found


def characters_after(part: bytes) -> list[bytes]:
  """Some characters whose UTF-8 begins with a part of one: the outermost."""
  size = 2 + (part[0] >= 0xE0) + (part[0] >= 0xF0)
  rest = size - len(part)
  if part[0] < 0xC2 or part[0] > 0xF4 or rest < 1:
    return []
  edges = (0x80, 0x81, 0x8F, 0x90, 0x9F, 0xA0, 0xBE, 0xBF)
  found = []
  for tail in itertools.product(edges, repeat=rest):
    char = part + bytes(tail)
    try:
      char.decode()
    except UnicodeDecodeError:
      continue
    found.append(char)
  return [*found[:2], *found[2:][-2:]]


class Reference:
  """The byte-level law of a token-level model, summed up cover by cover."""

  def __init__(
    self,
    oracle: Oracle,
    logits: Callable[[Sequence[int]], np.ndarray],
    prefix: Sequence[int],
    *,
    trust_model: bool = False,
  ):
    """Joins a tokenizer's oracle and a model.

    Args:
      oracle: the tokenizer.
      logits: the model's row after a path of token ids, float64.
      prefix: token ids before the text.
      trust_model: tokens are neither masked nor renormalized; the nodes are
        the same.
    """
    self.oracle = oracle
    self.trust_model = trust_model
    self._logits = logits
    self._prefix = tuple(prefix)
    self._rows: dict[Node, tuple[dict[int, float], float]] = {}
    self._weights: dict[Node, float] = {(): 0.0}

  def row(self, node: Node) -> tuple[dict[int, float], float]:
    """Log-probs of the tokens after a node, and of the end there."""
    if node not in self._rows:
      logits = self._logits((*self._prefix, *node)).astype(np.float64)
      if self.trust_model:
        kids = [t for t, piece in enumerate(self.oracle.spelled) if piece]
        whole, ends = logits, logits[self.oracle.ends]
      else:
        kids, canonical = self.oracle.law(node)
        ends = logits[self.oracle.ends] if canonical else np.zeros(0)
        whole = np.concatenate([logits[kids], ends])
        assert len(whole), f"{node}: nothing follows; look further ahead"
      norm = np.logaddexp.reduce(whole)
      eos = np.logaddexp.reduce(ends) - norm if len(ends) else -np.inf
      self._rows[node] = dict(zip(kids, logits[kids] - norm, strict=True)), eos
    return self._rows[node]

  def weight(self, node: Node) -> float:
    """Log-prob of a node."""
    if node not in self._weights:
      row, _ = self.row(node[:-1])
      self._weights[node] = self.weight(node[:-1]) + row[node[-1]]
    return self._weights[node]

  def covers(self, working: bytes) -> dict[Node, float]:
    """The covers of a text that is not empty, and their log-probs."""
    found = {}
    for node in self.oracle.nodes(working):
      rest = working[len(self.oracle.bytes_of(node)) :]
      if rest:
        row, _ = self.row(node)
        for token, value in row.items():
          if self.oracle.spelled[token].startswith(rest):
            found[*node, token] = self.weight(node) + value
    return found

  def total(self, working: bytes) -> float:
    """Log-prob that a text starts with these bytes."""
    if not working:
      return 0.0
    return _logsum(self.covers(working).values())

  def next(self, working: bytes) -> np.ndarray:
    """Log-probs of the next byte and of the end, `float64[257]`.

    With `trust_model` they are normalized over what they give together.
    """
    terms: list[list[float]] = [[] for _ in range(257)]
    for node in self.oracle.nodes(working):
      row, eos = self.row(node)
      rest = working[len(self.oracle.bytes_of(node)) :]
      if not rest:
        terms[EOS].append(self.weight(node) + eos)
      for token, value in row.items():
        piece = self.oracle.spelled[token]
        if piece.startswith(rest) and len(piece) > len(rest):
          terms[piece[len(rest)]].append(self.weight(node) + value)
    found = np.array([_logsum(each) for each in terms])
    if self.trust_model:
      return found - np.logaddexp.reduce(found)
    return found - self.total(working)

  def each(self, working: bytes) -> np.ndarray:
    """Log-prob of each byte given those before it."""
    if self.trust_model:
      return np.array(
        [self.next(working[:k])[b] for k, b in enumerate(working)]
      )
    totals = [self.total(working[:k]) for k in range(len(working) + 1)]
    return np.diff(totals)


def _logsum(values) -> float:
  values = np.array(list(values), np.float64)
  return float(np.logaddexp.reduce(values)) if len(values) else -np.inf
