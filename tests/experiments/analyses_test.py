"""Host: what the analyses say, where it is known what they must say."""

import collections
import gzip
import json
import math
import sys
import types

import ml_collections
import numpy as np
import pytest
from benches import check_shares
from matplotlib import pyplot

import byteprob
from configs import bias as bias_config
from configs import completion as completion_config
from configs import markov as markov_config
from experiments import (
  _chain,
  _texts,
  _tokenwise,
  bias,
  bits_per_byte,
  completion,
  markov,
  vocabularies,
)


@pytest.fixture(scope="module")
def small():
  return byteprob.load()


# Markov chains ---------------------------------------------------------------


@pytest.fixture(
  params=[
    "AB mpe AA BAA ABBA",
    "AB bpe AA BAA",
    pytest.param("ABC mpe AB CC ABC CAB", marks=pytest.mark.slow),
    # No text lets a single A stand.
    pytest.param("AB mpe AA AB BAA", marks=pytest.mark.slow),
  ],
  scope="module",
)
def source(request):
  symbols, rule, *words = request.param.split()
  chain = _chain.random_chain(symbols, 0.1, seed=3)
  vocabulary = _chain.RULES[rule](symbols, words)
  model = _chain.closed_form(chain, vocabulary)
  return chain, vocabulary, byteprob.ByteLM(model, vocabulary.tables())


def test_chains_are_stationary(source):
  chain, _, _ = source
  np.testing.assert_allclose(chain.next.sum(-1), 1, rtol=0, atol=1e-12)
  joint = chain.rest[..., None] * chain.next
  np.testing.assert_allclose(joint.sum(0), chain.rest, rtol=0, atol=1e-12)
  texts = chain.draw(np.random.default_rng(0), 4000, 12)
  last = [tuple(chain.symbols.index(c) for c in text[-3:]) for text in texts]
  for index in np.ndindex(chain.rest.shape):
    wanted = chain.rest[index]
    error = 5 * math.sqrt(wanted / len(texts))
    assert abs(last.count(index) / len(texts) - wanted) < error


def test_the_lemma_gives_the_chain_back(source):
  chain, _, lm = source
  prompts = [text for text in chain.draw(np.random.default_rng(1), 24, 9)]
  places = [ord(symbol) for symbol in chain.symbols]
  for text, row in zip(
    prompts, lm.next_byte_logprobs_batch(prompts), strict=True
  ):
    np.testing.assert_allclose(
      np.exp(row[places]), chain.after(text), rtol=0, atol=5e-6
    )
    assert np.isneginf(np.delete(row, places)).all()
  found = lm.byte_logprobs(prompts[0])
  wanted = [chain.logprob(c, prompts[0][:k]) for k, c in enumerate(prompts[0])]
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_drawn_texts_begin_with_the_closed_forms_tokens(source):
  chain, vocabulary, lm = source
  texts = chain.draw(np.random.default_rng(2), 4000, 24)
  counts = collections.Counter(
    tuple(ids[:2]) for ids in vocabulary.encode(texts)
  )
  tokens = range(1, len(vocabulary.spelled))
  wanted = {
    (a, b): math.exp(_tokenwise.logprobs(lm, (0, a, b)).sum())
    for a in tokens
    for b in tokens
  }
  assert sum(wanted.values()) == pytest.approx(1, abs=1e-5)
  check_shares(counts, wanted)


def test_token_prompting_excludes_what_would_have_made_a_longer_token(source):
  chain, vocabulary, lm = source
  if "AA" not in vocabulary.spelled:
    return
  prompts = [
    text
    for text, ids in (
      (text, vocabulary.encode([text])[0])
      for text in chain.draw(np.random.default_rng(3), 40, 9)
    )
    if vocabulary.spelled[ids[-1]] == "A"
  ]
  assert prompts
  for prompt in prompts[:3]:
    row = _tokenwise.TokenPrompted(lm, lm.encode(prompt), 0).next_byte()
    assert row[ord("A")] == 0 < chain.after(prompt)[0]


def test_a_trained_chain_is_told_of(tmp_path):
  config = markov_config.get_config("tiny")
  names = markov.examples(config)
  assert names[0] == "AB mpe closed form" and len(names) == 2
  one = markov.begin(config)
  records = [{"example": name, **one(name)} for name in names]
  summary = markov.summarize(config, json.loads(json.dumps(records)))
  for told in summary["sources"].values():
    assert told["closed"]["exact_max_error"] < 1e-5
    assert told["closed"]["prompted_max_error"] > 0.1
    trained = told["trained"][0]
    assert trained["losses"][-1] < trained["losses"][0]
    assert trained["exact_mean_error"] > 1e-4
  assert "closed form" in markov.report(summary)


# Bias ------------------------------------------------------------------------


def test_divergences():
  with np.errstate(divide="ignore"):
    p, q = np.log([0.5, 0.5, 0.0]), np.log([0.25, 0.25, 0.25])
  assert bias.kl(p, q) == pytest.approx(math.log(2))
  # A quarter of q is on no symbol at all.
  assert bias.total_variation(p, q) == pytest.approx(0.5)
  with np.errstate(divide="ignore"):
    assert math.isinf(bias.kl(p, np.log([1.0, 0.0, 0.0])))
  found = bias.mean([[1.0, 3.0], [], [2.0]])
  assert found["mean"] == 2 and found["cuts"] == 3
  assert bias.mean([[], []]) is None


@pytest.mark.parametrize(
  ("prefix", "wanted"),
  [
    ("don", "letter"),
    ("é", "letter"),
    ("x = 1", "digit"),
    ("f(", "other sign"),
    ("a\t", "space"),
    ("a\n", "line break"),
    ("a\n\n", "paragraph break"),
    (b"\xe9\x81", "inside a character"),
  ],
)
def test_places(prefix, wanted):
  prefix = prefix.encode() if isinstance(prefix, str) else prefix
  assert bias.place(prefix) == wanted


def test_every_cut_is_told_as_next_byte_tells_it(small):
  text = "import numpy\n\né".encode()
  record = bias.look(small, text)
  assert all(
    len(record[key]) == len(text)
    for key in ("place", "boundary", "kl", "top_changes", "leaked")
  )
  assert record["kl"][-2] is None, "inside a character"
  exact = small.byte_logprobs(text)
  assert record["nats"] == pytest.approx(-float(exact.sum()), abs=1e-3)
  assert record["token_nats"] >= record["nats"] - 0.1
  at = len("import nump")
  row = np.exp(small.next_byte_logprobs(text[:at]).astype(np.float64))
  prompted = _tokenwise.TokenPrompted(small, small.encode(text[:at]), 0)
  told = prompted.next_byte()
  variation = 0.5 * (abs(row - told).sum() + 1 - told.sum())
  assert record["total_variation"][at - 1] == pytest.approx(variation, abs=1e-4)
  assert all(0 <= value <= 1 for value in record["unfinished"])
  config = bias_config.get_config("tiny")
  config.texts = ("code",)
  summary = bias.summarize(config, [{"example": "code 0", **record}])
  assert summary["texts"]["code"]["all"]["kl_bits"]["cuts"] == len(text) - 1
  assert set(bias.draw(summary)) == {"distance", "lost"}
  pyplot.close("all")
  assert "paragraph break" in bias.report(summary)


# Completion ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("rest", "word"),
  [
    ("ge(10):", "ge"),
    (" in x:", " in"),
    ("(self, x", "(self"),
    ("--------------- ", None),
    ("word", None),
  ],
)
def test_targets(rest, word):
  assert completion.target(rest) == word


def test_matches():
  rest = b"ge(10):"
  assert completion.matches(b"ge(x)", rest)
  assert not completion.matches(b"ger(x)", rest)
  assert not completion.matches(b"g", rest)


def test_scores_of_the_texts_own_bytes(small):
  own = [completion.Cut(b"for i in ra", b"nge(10)\n")]
  found = completion.scored(small, own, 8)
  assert found["byte"][0] == pytest.approx(
    -float(small.byte_logprobs(*own[0][::-1]).sum()), abs=1e-3
  )
  # Token prompting has cut off "range"; taken back, it comes.
  assert found["byte"][0] + 3 < found["token"][0]
  assert abs(found["alignment"][0] - found["byte"][0]) < 1
  config = completion_config.get_config("tiny")
  cuts = completion.cuts("code", config)
  assert cuts == completion.cuts("code", config) and len(cuts) == 3
  text = _texts.source("code")
  assert all(cut.prompt + cut.rest in text for cut in cuts)


# Vocabularies, bits per byte -------------------------------------------------


def test_where_tokens_end(small):
  text = b"import numpy as np\n"
  lm = vocabularies.tokenizer("stdlib-bpe")
  spelling = _tokenwise.spelling(lm.tables)
  at, wanted = 0, set()
  for token in small.encode(text)[1:]:
    at += len(spelling[token])
    wanted.add(at)
  assert vocabularies.ends(lm, text) == wanted
  # A space comes first, which is none of the text's bytes.
  other = vocabularies.ends(vocabularies.tokenizer("stdlib-spm"), text)
  assert max(other) == len(text) and min(other) > 0


def test_vocabularies_are_compared():
  config = ml_collections.ConfigDict({"tokenizers": "a=x,b=y", "texts": ()})
  record = {
    "example": "a b",
    "sizes": [10, 20],
    "shared": 5,
    "texts": {"code": {"ends": [30, 20], "both": 10, "bytes": 100}},
  }
  found = vocabularies.summarize(config, [record])["pairs"]["a b"]
  assert found["shared_of_all"] == 5 / 25
  assert found["shared_of_smaller"] == 5 / 10
  assert found["ends"]["code"] == 10 / 40


def test_documents_are_whole_lines():
  text = b"".join(bits_per_byte._pieces("aé\n".encode() * 9 + b"b" * 30, 10))
  assert text == "aé\n".encode() * 9 + b"b" * 30
  parts = list(bits_per_byte._pieces("é".encode() * 9, 5))
  assert [len(part) for part in parts] == [4, 4, 4, 4, 2]
  parts = list(bits_per_byte._pieces(b"ab\ncd\nef\n", 6))
  assert parts == [b"ab\ncd\n", b"ef\n"]


def test_bits_are_those_of_bytes_and_of_tokens(small):
  text = _texts.source("code")[:400]
  ids = small.encode(text)
  found = _tokenwise.logprobs(small, ids)
  assert found.shape == (len(ids) - 1,)
  exact = -small.byte_logprobs(text).sum()
  # One way of writing it has less than all, but for what is masked out.
  assert exact < -found.sum() + 1
  assert -found.sum() < exact * 1.1
  # Far more than one call's rows.
  many = [*ids, *ids[1:], *ids[1:]]
  again = _tokenwise.logprobs(small, many)[: len(ids) - 1]
  np.testing.assert_allclose(again, found, rtol=0, atol=1e-4)


def test_long_documents_are_scored_in_windows(small, monkeypatch):
  text = _texts.source("code")[:300]
  monkeypatch.setattr(bits_per_byte.byteprob, "load", lambda *a, **k: small)
  monkeypatch.setattr(bits_per_byte, "documents", lambda *a: [text])
  config = {"model": "", "dtype": "", "data": "", "size": 0, "most": 0}

  def record(window, stride):
    how = {"window": window, "stride": stride}
    return bits_per_byte.begin(ml_collections.ConfigDict(config | how))("0")

  whole, one, many = record(0, 0), record(400, 0), record(80, 40)
  assert one == whole
  assert whole["tokens"] == len(small.encode(text)) - 1
  ids = small.encode(text)
  nats = -_tokenwise.logprobs(small, ids).sum()
  np.testing.assert_allclose(whole["token_nats"], nats, rtol=1e-5)
  values = small.byte_logprobs(text, window=80, stride=40)
  np.testing.assert_allclose(many["nats"], -values.sum(), rtol=1e-5)
  # Less context costs more, and parts cut few tokens.
  assert whole["nats"] < many["nats"] < many["token_nats"] + 1
  assert whole["token_nats"] < many["token_nats"]
  assert abs(many["tokens"] - whole["tokens"]) < 10


def test_files_and_the_hub(tmp_path, monkeypatch):
  path = tmp_path / "a.txt.gz"
  path.write_bytes(gzip.compress(b"text\n"))
  assert _texts.source(str(path)) == b"text\n"
  path.write_bytes(b"text\n")
  with pytest.raises(byteprob.ByteprobError, match="no gzip file"):
    _texts.source(str(path))
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(byteprob.ByteprobError, match="pip install datasets"):
    _texts.source("hub:a:b:test:text")

  def load_dataset(name, variant, split):
    assert (name, variant, split) == ("x/y", None, "test")
    return {"text": ["a\n", "b\n"]}

  fake = types.SimpleNamespace(load_dataset=load_dataset)
  monkeypatch.setitem(sys.modules, "datasets", fake)
  assert _texts.source("hub:x/y::test:text") == b"a\nb\n"
