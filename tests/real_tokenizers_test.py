"""Host: real tokenizers and their nodes, each beside its own library.

The tokenizers library is a black box here. What it makes of a text, or of any
text that begins alike, must be among the nodes of that text; and each node
must be the beginning of something that it makes.
"""

import dataclasses
import functools
import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence

import downloads
import gguf
import jax
import jax.numpy as jnp
import many_scripts
import numpy as np
import oracle
import pytest
import tokenizers
import tokenizers_zoo
from tokenizers import normalizers, pre_tokenizers

from byteprob import lemma, scoring, token_tree
from byteprob.tokenization import load_tables
from byteprob.tokenization.tables import Tables

pytestmark = pytest.mark.download

NAMES = ("llama2", "llama3_1", "qwen3", "gemma3", "smollm2")
COUNTS, SIZE = (12, 216), 1024
"""Texts for each tokenizer, and their bytes; the most are 1.1 MB for all five.
"""

BATCH = 36
AHEAD = (*"asS19 \n\r'!é中", "\u0301")
"""Characters that may decide how the text before them is cut."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
  """A tokenizer as its own library has it, and as ours has compiled it.

  Attributes:
    encode: the black box.
    spelled: bytes of each id in the working text, None for none.
    working: the working text of a text.
    prefixed: a space is put before every text.
    tables: what is tested.
  """

  encode: oracle.Encode
  spelled: Sequence[bytes | None]
  working: Callable[[str], bytes]
  prefixed: bool
  tables: Tables

  def read(self, texts: Sequence[bytes]) -> list[list[oracle.Node]]:
    """All nodes of working texts."""
    ids = np.asarray(self.tables.token_id)
    found = []
    for first in range(0, len(texts), BATCH):
      part = list(texts[first : first + BATCH])
      part += [b""] * (BATCH - len(part))
      queries = [
        scoring.ScoringQuery(prefix=(0,), text=text, start=self.tables.start)
        for text in part
      ]
      nodes = jax.device_get(scoring.read(self.tables, queries)[0])
      for k in range(len(texts[first : first + BATCH])):
        own = slice(int(nodes.count[k]))
        token, parent = nodes.token[k, own], nodes.parent[k, own]
        one = nodes._replace(token=token, parent=parent)
        found.append(scoring.paths(one, ids))
    return found

  def allowed(self, node: oracle.Node, work: bytes) -> list[int]:
    """The tokens that may follow a node, as the library has it."""
    query = scoring.ScoringQuery(
      prefix=(0,), text=work, start=self.tables.start
    )
    nodes, _, path = jax.tree.map(
      lambda leaf: leaf[0], scoring.read(self.tables, [query])
    )
    ids = np.asarray(self.tables.token_id)
    at = scoring.paths(scoring.nodes(self.tables, query), ids).index(node)
    one = token_tree.standing(self.tables, nodes, path, jnp.array([at]))
    return ids[np.asarray(lemma.mask(self.tables, one)[0][0])].tolist()


@functools.cache
def real(name: str) -> Real:
  """A tokenizer by its name."""
  if name == "smollm2":
    path = downloads.model("smollm2-135m")
    tokenizer, spelled = _from_gguf(path)
  else:
    path = downloads.tokenizer(name)
    data = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    spelled = _spelled(data, tokenizer)
  nfc = normalizers.NFC().normalize_str

  def working(text: str) -> bytes:
    if name == "qwen3":
      text = nfc(text)
    if name in ("llama2", "gemma3"):
      text = text.replace("▁", " ")
    return ((" " if name == "llama2" else "") + text).encode()

  encode = oracle.library(tokenizer)

  def encode_spaces(texts: list[str]) -> list[oracle.Node]:
    # A "▁" is taken for a space before the tokenizer sees it, with a warning:
    # Gemma's has tokens that match it as it stands.
    return encode([text.replace("▁", " ") for text in texts])

  return Real(
    encode=encode_spaces if name == "gemma3" else encode,
    spelled=spelled,
    working=working,
    prefixed=name == "llama2",
    tables=jax.tree.map(jnp.asarray, load_tables(path)),
  )


def _spelled(data, tokenizer) -> list[bytes | None]:
  """The bytes of each id of a `tokenizer.json`."""
  back = {char: byte for byte, char in tokenizers_zoo.visible().items()}
  by_bytes = not data["model"]["byte_fallback"]
  added = {token["id"]: token for token in data["added_tokens"]}
  found: list[bytes | None] = []
  for id_ in range(tokenizer.get_vocab_size()):
    piece = tokenizer.id_to_token(id_)
    if id_ in added:
      plain = not added[id_]["special"]
      found.append(piece.replace("▁", " ").encode() if plain else None)
    elif by_bytes:
      found.append(bytes(back[char] for char in piece))
    elif len(piece) == 6 and piece.startswith("<0x"):
      found.append(bytes([int(piece[3:5], 16)]))
    else:
      found.append(piece.replace("▁", " ").encode())
  return found


def _from_gguf(path):
  """SmolLM2's tokenizer as it was published, with the file's vocabulary."""
  fields = gguf.GGUFReader(path).fields
  pieces = fields["tokenizer.ggml.tokens"].contents()
  merges = fields["tokenizer.ggml.merges"].contents()
  kinds = fields["tokenizer.ggml.token_type"].contents()
  control = [p for p, kind in zip(pieces, kinds, strict=True) if kind == 3]
  assert set(kinds) == {1, 3}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      vocab={piece: id_ for id_, piece in enumerate(pieces)},
      merges=[tuple(merge.split(" ")) for merge in merges],
    )
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  )
  tokenizer.add_special_tokens(control)
  back = {char: byte for byte, char in tokenizers_zoo.visible().items()}
  spelled = [
    None if piece in control else bytes(back[char] for char in piece)
    for piece in pieces
  ]
  return tokenizer, spelled


def _shared(one: Real, ids: oracle.Node, size: int) -> oracle.Node:
  """The tokens of a text that end within its first bytes."""
  for count, token in enumerate(ids):
    size -= len(one.spelled[token])
    if size < 0:
      return ids[:count]
  return ids


@pytest.mark.parametrize(
  "count", [COUNTS[0], pytest.param(COUNTS[1], marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "name",
  [
    # Its rules are those of Llama 3.1 but for NFC, which small ones have.
    pytest.param(name, marks=[pytest.mark.slow] * (name == "qwen3"))
    for name in NAMES
  ],
)
def test_complete(name, count):
  """Whatever a text turns out to be, its tokens so far are nodes."""
  one = real(name)
  rng = random.Random(name)
  texts = many_scripts.texts(NAMES.index(name), count, SIZE)
  # Long runs need more room, and so do the texts that are read beside them.
  texts.sort(key=_longest_run)
  works = [one.working(text) for text in texts]
  encoded = one.encode(texts)
  for ids, work in zip(encoded, works, strict=True):
    assert b"".join(one.spelled[token] for token in ids) == work
  checked = 0
  for text, work, ids, nodes in zip(
    texts, works, encoded, one.read(works), strict=True
  ):
    known = set(nodes)
    assert len(known) == len(nodes)
    assert ids in known, text
    cuts = [rng.randrange(len(text) + 1) for _ in range(6)]
    others = [text[:at] + rng.choice(["", *AHEAD]) for at in cuts]
    for other, path in zip(others, one.encode(others), strict=True):
      # As far as the two texts are the same.
      size = _alike(work, one.working(other))
      assert _shared(one, path, size) in known, (text, other)
      checked += 1
  assert sum(map(len, works)) > 0.99 * count * SIZE
  assert checked == 6 * count


def _longest_run(text: str) -> int:
  return max(len(list(run)) for _, run in itertools.groupby(text))


def _alike(one: bytes, other: bytes) -> int:
  """How many bytes two texts begin with alike."""
  pairs = zip(one, other, strict=False)
  return next(
    (at for at, (a, b) in enumerate(pairs) if a != b),
    min(len(one), len(other)),
  )


def _likely(one: Real, work: bytes, after: bytes) -> list[bytes]:
  """Texts that begin with a working text, the likeliest first."""
  whole = work.decode("utf-8", "ignore").encode()
  part = work[len(whole) :]
  chars = [b""]
  if part:
    own = (part + after).decode("utf-8", "ignore")[:1].encode()
    chars = [own, *oracle.characters_after(part)]
    chars = [char for char in chars if char.startswith(part)]
  tails = [
    "".join(tail).encode()
    for size in (0, 1, 2)
    for tail in itertools.product(AHEAD, repeat=size)
  ]
  found = [whole + char + tail for char in chars for tail in tails]
  return [text for text in (work + after, *found) if _is_text(text)]


def _directed(one: Real, node: oracle.Node, rng, depth: int = 3):
  """Texts that begin with a node, if the library is right about it.

  The library proposes, through its mask; the tokenizer will decide.
  """
  work = b"".join(one.spelled[token] for token in node)
  allowed = one.allowed(node, work)
  rng.shuffle(allowed)
  whole = [
    text for token in allowed if _is_text(text := work + one.spelled[token])
  ][:600]
  yield from whole
  for text in whole[:60]:
    for more in AHEAD:
      yield text + more.encode()
  inside = [t for t in allowed if not _is_text(work + one.spelled[t])]
  for token in inside[: 40 if depth == 3 else 6] if depth else ():
    yield from _directed(one, (*node, token), rng, depth - 1)


def _begins(one: Real, node: oracle.Node, works: Iterable[bytes]) -> bool:
  """Whether the tokenizer begins any of some working texts with a node."""
  rest = iter(works)
  while part := list(itertools.islice(rest, 500)):
    texts = [work.decode() for work in part]
    if one.prefixed:
      texts = [text.removeprefix(" ") for text in texts]
    if any(ids[: len(node)] == node for ids in one.encode(texts)):
      return True
  return False


def _is_text(data: bytes) -> bool:
  try:
    data.decode()
  except UnicodeDecodeError:
    return False
  return True


@pytest.mark.parametrize(
  "name",
  [
    name
    if name in ("llama2", "smollm2")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
  ],
)
def test_minimal(name):
  """Every node is what the tokenizer makes of a text, or begins with."""
  one = real(name)
  rng = random.Random(name)
  texts = many_scripts.texts(50 + NAMES.index(name), 8 * BATCH, 48)
  works = [one.working(text) for text in texts]
  trunk, branches = [], []
  for work, ids, nodes in zip(
    works, one.encode(texts), one.read(works), strict=True
  ):
    for node in nodes[1:]:
      at = len(b"".join(one.spelled[token] for token in node))
      row = (node, work[:at], work[at:])
      (trunk if ids[: len(node)] == node else branches).append(row)
  assert len(branches) > 300
  rng.shuffle(branches)
  for node, work, after in branches[:100] + rng.sample(trunk, 20):
    assert _begins(one, node, _likely(one, work, after)) or _begins(
      one, node, _directed(one, node, rng)
    ), (node, work)
