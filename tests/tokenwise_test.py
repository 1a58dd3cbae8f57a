"""Token by token: the byte-level law from covers, and the usual methods."""

import collections
import dataclasses

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import check_shares, close, make_bench

from byteprob import lm as lm_lib
from byteprob import scoring, token_tree
from byteprob.engine import request
from byteprob.errors import PromptError
from byteprob.sampling import starts, tokendraw, tokenloop, tokenwise

EOS = 256
METHODS = ("token", "healing", "alignment")
NAMES = (
  "gpt2", "unigram_lookahead",
  *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in (
      "prefix_space", "greedy_lookahead", "gemma", "composed", "greedy_bytes",
      "unigram_metaspace",
    )
  ),
)  # fmt: skip
BATCH = 16


def sixteen(contexts) -> list:
  """As many contexts as are always drawn after: few sizes are compiled."""
  return (list(contexts) * BATCH)[:BATCH]


def contexts_of(one) -> list[bytes]:
  """Some users' contexts, cut anywhere."""
  texts = [text for text in one.texts() if len(text) < 9]
  if one.entry.prefixed:
    # The tokenizer takes " a" for "a".
    texts = [b"", *(t[1:] for t in texts if len(t) > 1 and t[:2] != b"  ")]
  return sixteen(texts)


def working(one, text: bytes) -> bytes:
  return b" " + text if one.entry.prefixed and text else text


def drawn(one, sample) -> tuple[int, ...]:
  """The tokens of a sample since the start token."""
  start = one.entry.start
  assert sample.tokens[: len(start)] == start
  return sample.tokens[len(start) :]


def spelled(one, tokens) -> bytes:
  """The users' bytes of tokens."""
  found = one.oracle.bytes_of(tokens)
  return found.removeprefix(b" ") if one.entry.prefixed else found


@pytest.mark.parametrize("name", NAMES)
def test_paths_after_covers_are_nodes_with_their_log_probs(name):
  one = make_bench(name)
  model, contexts, reasons = one.byte_lm(), contexts_of(one), set()
  for seed in range(3):
    found = model.sample_tokens(contexts, jax.random.key(seed), 6)
    for context, sample in zip(contexts, found, strict=True):
      path = drawn(one, sample)
      text = spelled(one, path)
      assert text.startswith(context)
      assert text[len(context) :][:6] == sample.text
      wanted = one.reference.weight(path)
      wanted -= one.reference.total(working(one, context))
      if sample.reason == "end":
        wanted += one.reference.row(path)[1]
      close(sample.logprobs.sum(), wanted, 1e-4)
      reasons.add(sample.reason)
  assert reasons == {"max_bytes", "end"} or name in ("gemma", "composed")


def texts_law(one, context: bytes, size: int) -> dict[bytes, float]:
  """Probabilities of all texts of a size, or shorter ones that end (`$`)."""
  found: dict[bytes, float] = {}

  def extend(text, probability):
    if len(text) == size:
      found[text] = probability
      return
    for symbol, value in enumerate(np.exp(one.reference.next(context + text))):
      if value and symbol == EOS:
        found[text + b"$"] = probability * value
      elif value:
        extend(text + bytes([symbol]), probability * value)

  extend(b"", 1.0)
  return found


@pytest.mark.parametrize(
  ("name", "context"),
  [
    ("gpt2", b"a\n\n"),
    pytest.param("greedy_lookahead", b"a", marks=pytest.mark.slow),
    pytest.param("gpt2", b"a'", marks=pytest.mark.slow),
    pytest.param("unigram_lookahead", b"a", marks=pytest.mark.slow),
  ],
)
def test_texts_after_covers_have_the_byte_level_law(name, context):
  one = make_bench(name)
  model, size, counts = one.byte_lm(), 2, collections.Counter()
  for seed in range(128):
    for sample in model.sample_tokens(
      sixteen([context]), jax.random.key(seed), size
    ):
      counts[sample.text + b"$" * (sample.reason == "end")] += 1
  check_shares(counts, texts_law(one, context, size))


def test_trusted_covers_have_their_weights():
  one = make_bench("gpt2")
  model = lm_lib.ByteLM(one.model, one.tables, "trust_model")
  law = type(one.reference)(
    one.oracle, one.logits, one.entry.start, trust_model=True
  )
  contexts = sixteen([b"a'", b"a\n\n", b"s", b"l"])
  for context, sample in zip(
    contexts, model.sample_tokens(contexts, jax.random.key(0), 4), strict=True
  ):
    every = []
    for node in one.oracle.nodes(context):
      rest = context[len(one.oracle.bytes_of(node)) :]
      row, eos = law.row(node)
      every += [law.weight(node) + eos] * (not rest)
      every += [
        law.weight(node) + value
        for token, value in row.items()
        if one.oracle.spelled[token].startswith(rest)
        and len(one.oracle.spelled[token]) > len(rest)
      ]
    path = drawn(one, sample)
    wanted = law.weight(path) - np.logaddexp.reduce(every)
    if sample.reason == "end":
      wanted += law.row(path)[1]
    close(sample.logprobs.sum(), wanted, 1e-4)


def slow(one, method, context, size, backup=3):
  """Greedy decoding after a context's encoding, in float64.

  Returns:
    The text, the tokens, the log-prob of each, and whether it ended.
  """
  (ids,) = one.oracle.encode([context.decode()])
  taken = {"token": 0, "healing": 1, "alignment": backup}[method]
  kept = ids[: max(len(ids) - taken, 0)]
  rest = one.oracle.bytes_of(ids[len(kept) :])
  path, text, values = [*one.entry.start, *kept], b"", []
  while len(text) < size:
    row = one.logits(path)
    row = row - np.logaddexp.reduce(row)
    fits = {
      token: row[token]
      for token, piece in enumerate(one.oracle.spelled)
      if piece
      and (
        piece.startswith(rest)
        or (method == "alignment" and rest.startswith(piece))
      )
    }
    if not rest:
      (end,) = one.entry.ends
      fits[end] = row[end]
    best = max(fits, key=fits.__getitem__)
    values.append(fits[best])
    if best in one.entry.ends:
      return text, tuple(path), values, True
    path.append(best)
    piece = one.oracle.spelled[best]
    if one.entry.prefixed and not context and not text and not rest:
      piece = piece.removeprefix(b" ")
    text += piece[len(rest) :]
    rest = rest[len(piece) :]
  return text[:size], tuple(path), values, False


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "gemma", "prefix_space"])
def test_the_usual_methods_are_those_of_a_slow_loop(name, method):
  one = make_bench(name)
  model, contexts = one.byte_lm(), []
  for text in contexts_of(one):
    whole = text.decode(errors="ignore").encode()
    contexts.append(whole)
  found = model.sample_tokens(
    contexts, jax.random.key(0), 12, method, greedy=True
  )
  differ = 0
  for context, sample in zip(contexts, found, strict=True):
    text, tokens, values, ended = slow(one, method, context, 12)
    assert sample.text == text
    assert sample.tokens == tokens
    assert sample.reason == ("end" if ended else "max_bytes")
    assert sample.calls == len(values)
    close(sample.logprobs, values, 1e-4)
    differ += text != slow(one, "token", context, 12)[0]
  assert (differ > 0) == (method != "token")


def test_backup_says_how_many_tokens_are_taken_back():
  one = make_bench("gpt2")
  contexts, found = sixteen([b"ll'l", b"saaa", b"saal"]), []
  for backup in (1, 2, 3):
    samples = one.byte_lm().sample_tokens(
      contexts, jax.random.key(0), 8, "alignment", backup=backup, greedy=True
    )
    for context, sample in zip(contexts, samples, strict=True):
      wanted = slow(one, "alignment", context, 8, backup)
      assert (sample.text, sample.tokens) == wanted[:2]
    found.append([sample.tokens for sample in samples])
  assert found[0] != found[1] != found[2] != found[0]


def law_of_warpers(values, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
  """Shares that `request.warp` defines, for one row."""
  found = request.warp(
    request.LogitWarpers(
      temperature=jnp.float32(temperature),
      top_k=jnp.int32(top_k or len(values)),
      top_p=jnp.float32(top_p),
      min_p=jnp.float32(min_p),
      greedy=jnp.bool_(False),
    ),
    jnp.asarray(values, jnp.float32),
  )
  return np.asarray(jax.nn.softmax(found), np.float64)


WARPERS = [
  {},
  {"temperature": 0.7},
  {"top_k": 4},
  {"top_p": 0.8},
  {"min_p": 0.2},
  {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("settings", WARPERS)
def test_warpers_leave_of_tokens_what_they_leave_of_bytes(settings):
  rng = np.random.default_rng(0)
  values = rng.normal(size=(6, 300)).astype(np.float32)
  # Ties, also where the cut-offs fall; and what is impossible.
  values[1] = np.round(values[1])
  values[2] = 0
  values[3, ::2] = -np.inf
  values[4, 3:] = -np.inf
  wanted = [law_of_warpers(row, **settings) for row in values]
  asked = tokenwise.TokenSamplingParams(max_bytes=1, **settings)
  how = tokendraw.How(
    match="starts",
    greedy=False,
    top_k=asked.top_k > 0,
    top_p=asked.top_p < 1,
  )
  kept = tokendraw.weights(how, asked.warpers(300), jnp.asarray(values))
  share = np.asarray(kept / kept.sum(1, keepdims=True))
  np.testing.assert_allclose(share, wanted, rtol=1e-4, atol=1e-6)


def test_nothing_without_weight_is_picked():
  rng = np.random.default_rng(1)
  weight = rng.random((64, 1000)).astype(np.float32)
  weight *= rng.random(weight.shape) < 0.3
  weight[:, -5:] = weight[:, :5] = 0
  edges = (0.0, 1e-7, 0.25, 0.5, 0.75, float(np.nextafter(np.float32(1), 0)))
  for lot in edges:
    found = tokendraw.pick(jnp.asarray(weight), jnp.full(64, lot, jnp.float32))
    assert (np.take_along_axis(weight, np.asarray(found)[:, None], 1) > 0).all()


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.9}])
def test_tokens_come_in_their_shares(settings):
  one = make_bench("gpt2")
  model, counts = one.byte_lm(), collections.Counter()
  context = b"a'l"
  for seed in range(128):
    for sample in model.sample_tokens(
      sixteen([context]), jax.random.key(seed), 1, "token", **settings
    ):
      ended = sample.reason == "end"
      counts[one.entry.ends[0] if ended else sample.tokens[-1]] += 1
  (ids,) = one.oracle.encode([context.decode()])
  row = one.logits((*one.entry.start, *ids))
  able = [t for t, piece in enumerate(one.oracle.spelled) if piece]
  able += one.entry.ends
  values = np.full(len(row), -np.inf)
  values[able] = row[able]
  check_shares(counts, dict(enumerate(law_of_warpers(values, **settings))))


@pytest.mark.parametrize("method", ["cover", "alignment"])
def test_a_text_does_not_depend_on_its_neighbours(method):
  model, key = make_bench("gpt2").byte_lm(), jax.random.key(3)
  contexts = sixteen([b"a'l", b"a\n\n", b"s", b"a'l"])
  together = model.sample_tokens(contexts, key, 40, method)
  assert together[0].text != together[3].text  # their keys differ
  for k in (2, 3):
    # Its number decides on its key.
    others = [b"l"] * BATCH
    others[k] = contexts[k]
    alone = model.sample_tokens(others, key, 40, method)[k]
    assert alone.tokens == together[k].tokens
    close(alone.logprobs, together[k].logprobs)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cover", "token", "healing"])
def test_stop_strings_cut_where_they_end(method):
  model, key = make_bench("gpt2").byte_lm(), jax.random.key(5)
  contexts = sixteen([b"a", b"l", b"a's", b"s"])
  stops = (b"\n", b"'l", b"as")
  free = model.sample_tokens(contexts, key, 40, method)
  stopped = model.sample_tokens(contexts, key, 40, method, stop=stops)
  inside = 0
  for context, whole, part in zip(contexts, free, stopped, strict=True):
    ends = [
      whole.text.find(stop) + len(stop) for stop in stops if stop in whole.text
    ]
    if ends:
      assert part.reason == "stop"
      assert part.text == whole.text[: min(ends)]
      text = make_bench("gpt2").oracle.bytes_of(part.tokens[1:])
      inside += len(text) > len(context) + len(part.text)
      assert part.tokens == whole.tokens[: len(part.tokens)]
    else:
      assert (part.text, part.tokens) == (whole.text, whole.tokens)
      assert part.reason == whole.reason
  assert inside or method == "healing"
  assert any(sample.reason == "stop" for sample in stopped)


def test_a_stop_string_that_max_bytes_cuts_off_does_not_count():
  model, key = make_bench("gpt2").byte_lm(), jax.random.key(5)
  contexts = sixteen([b"a", b"l", b"a's", b"s"])
  free = model.sample_tokens(contexts, key, 40)
  k = max(range(BATCH), key=lambda k: len(free[k].text))
  text = free[k].text
  stop = text[6:12]
  assert text.find(stop) == 6
  for size, reason in ((11, "max_bytes"), (12, "stop")):
    sample = model.sample_tokens(contexts, key, size, stop=(stop,) * 3)[k]
    assert (sample.text, sample.reason) == (text[:size], reason)


def endless(one) -> lm_lib.ByteLM:
  """A model whose texts never end."""
  tables = dataclasses.replace(one.padded, end_ids=jnp.zeros(0, jnp.int32))
  return lm_lib.ByteLM(one.model, tables)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "unigram_lookahead"])
def test_more_room_is_made_where_it_is_needed(name, monkeypatch):
  one = make_bench(name)
  model, key = endless(one), jax.random.key(7)
  contexts = sixteen([b"a", b"a ", b" a", b"a"])
  wanted = model.sample_tokens(contexts, key, 60)
  made = []
  for part in ("_more_slots", "_more_law"):
    real = getattr(tokenwise._Decoder, part)

    def noting(self, real=real, part=part):
      made.append(part)
      real(self)

    monkeypatch.setattr(tokenwise._Decoder, part, noting)
  if name == "gpt2":
    monkeypatch.setattr(starts, "round_up_to_bucket", lambda count: count // 2)
    # One state of each node, where there may be several.
    tight = dataclasses.replace(model.tables, hypotheses=1)
    model = lm_lib.ByteLM(one.model, tight)
  else:
    read_on = scoring.read_on
    few = token_tree.Capacity(nodes=24, states=model.tables.hypotheses)
    monkeypatch.setattr(
      scoring,
      "read_on",
      lambda tables, queries, more=0, capacity=few: read_on(
        tables, queries, more, capacity or few
      ),
    )
  found = model.sample_tokens(contexts, key, 60)
  for sample, other in zip(found, wanted, strict=True):
    assert len(sample.text) == 60
    assert sample.tokens == other.tokens
    close(sample.logprobs, other.logprobs)
  assert set(made) == {"_more_law", *["_more_slots"] * (name == "gpt2")}


@pytest.mark.slow
def test_the_context_may_run_full():
  one = make_bench("random_order_1")
  model, _ = fakes.model(one.model.vocab_size, context_length=40)
  small = endless(dataclasses.replace(one, model=model))
  for method in ("cover", "token"):
    for sample in small.sample_tokens(
      sixteen([b"abc"]), jax.random.key(9), 400, method
    ):
      assert sample.reason == "context"
      # The last token drawn need not be read any more.
      assert len(sample.tokens) == 41
    with pytest.raises(PromptError, match="context"):
      small.sample_tokens([b"abcba" * 40], jax.random.key(9), 4, method)


def test_contexts_may_hold_token_ids():
  one = make_bench("gpt2")
  model, (start,) = one.byte_lm(), one.entry.start
  for method in ("cover", "healing"):
    plain, given, only, *_ = model.sample_tokens(
      sixteen([b"a'l", [start, b"a'", b"l"], [start]]),
      jax.random.key(0),
      12,
      method,
      greedy=True,
    )
    assert plain.tokens == given.tokens
    assert only.tokens[0] == start


@pytest.mark.parametrize("name", ["prefix_space"])
def test_the_empty_text_may_end_at_once(name):
  one = make_bench(name)
  model, samples = one.byte_lm(), []
  for seed in range(8):
    samples += model.sample_tokens(sixteen([b""]), jax.random.key(seed), 4)
  ended = [sample for sample in samples if sample.text == b""]
  for sample in ended:
    assert sample.reason == "end"
    close(sample.logprobs.sum(), one.reference.row(())[1])
  assert ended and any(not sample.calls for sample in ended)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"method": "heal"}, "method must be"),
    ({"backup": 0}, "backup"),
    ({"temperature": 0}, "greedy=True"),
    ({"max_bytes": 0}, "max_bytes"),
    ({"stop": (b"",)}, "stop"),
  ],
)
def test_settings_that_make_no_sense_are_errors(settings, message):
  model = make_bench("gpt2").byte_lm()
  rest = {"max_bytes": 4} | settings
  with pytest.raises(ValueError, match=message):
    model.sample_tokens([b"a"], jax.random.key(0), **rest)


@pytest.mark.parametrize("method", METHODS)
def test_a_context_that_cannot_be_encoded_is_an_error(method):
  model = make_bench("gemma").byte_lm()
  with pytest.raises(PromptError, match="stops inside"):
    model.sample_tokens([b"a", b"a\xe3\x80"], jax.random.key(0), 4, method)


def test_nothing_asked_nothing_given():
  model = make_bench("gpt2").byte_lm()
  assert model.sample_tokens([], jax.random.key(0), 4) == []


def test_few_shapes_are_compiled():
  model = make_bench("gpt2").byte_lm()
  model.sample_tokens([b"a"], jax.random.key(0), 20)
  model.sample_tokens([b"a"], jax.random.key(0), 20, "token")
  before = tokenloop.run._cache_size()
  for size, context in ((5, b""), (11, b"a'l"), (30, b"l" * 30)):
    for method in ("cover", "token"):
      model.sample_tokens(
        [context], jax.random.key(size), size, method, temperature=0.7
      )
  assert tokenloop.run._cache_size() == before
