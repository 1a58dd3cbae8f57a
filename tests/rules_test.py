"""Longest matches and best-scored paths: what the zoo does not say."""

import dataclasses
import json
import random

import benches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import token_tree_test
import tokenizers
import tokenizers_zoo as zoo
from tokenizers import AddedToken, pre_tokenizers

from byteprob import lemma, scoring, token_tree
from byteprob.errors import UnsupportedTokenizerError
from byteprob.rules import unigram as law
from byteprob.tokenization import cache, compile_tables, huggingface, unigram
from byteprob.tokenization.tables import LIMB

MAKERS = {"longest_match": zoo.random_greedy, "unigram": zoo.random_unigram}


def check(entry: zoo.Entry, seed: int) -> None:
  """Compares nodes, masks and next bytes with the brute force."""
  one = benches.bench_of(entry, seed)
  texts = sorted(one.texts(), key=len)[-24:]
  token_id = np.asarray(one.padded.token_id)
  nodes, front, masks = token_tree_test.read(
    one.padded, token_tree_test.CAPACITY, *token_tree_test.spread(one, texts)
  )
  assert not front.overflow.any()
  nodes, (allowed, may_end) = jax.device_get((nodes, masks))
  for k, text in enumerate(texts):
    part = scoring._cut_nodes(jax.tree.map(lambda leaf, k=k: leaf[k], nodes))
    paths = scoring.paths(part, token_id)
    assert len(paths) == len(set(paths))
    assert set(paths) == set(one.oracle.nodes(text))
    for n, path in enumerate(paths):
      kids, canonical = one.oracle.law(path)
      assert sorted(token_id[allowed[k, n]].tolist()) == sorted(kids)
      assert may_end[k, n] == canonical
  for text, score in zip(texts, benches.scores(one, texts), strict=True):
    benches.close(score.next, one.reference.next(text))


@pytest.mark.parametrize("rule", MAKERS)
@pytest.mark.parametrize(
  "seed",
  [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))],
)
def test_random_tokenizers_are_those_of_the_brute_force(rule, seed):
  entry = MAKERS[rule](random.Random(seed))
  check(entry, seed)


def compiled(entry: zoo.Entry):
  """The tables of a tokenizer."""
  return compile_tables(huggingface.from_json(entry.json), key="")


def paths_of(entry: zoo.Entry) -> unigram._Scores:
  """The host's own account of the paths of a tokenizer."""
  return unigram._Scores(huggingface.from_json(entry.json))


@pytest.mark.parametrize("ties", [None, 2, 3])
def test_the_libraries_take_the_path_whose_last_token_starts_first(ties):
  rng = random.Random(0)
  for seed in range(20):
    pieces = ["a", "b", *zoo.random_pieces(rng, ("a", "b"), 10, 4)]
    scores = zoo._log_probs(pieces, ties, seed)
    entry = zoo.unigram(("a", "b"), scores)
    own = paths_of(entry)
    file = zoo.sentencepiece_file(
      [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
      + [(piece, score, 1) for piece, score in scores.items()],
      kind=1,
    )
    other = sentencepiece.SentencePieceProcessor(model_proto=file)
    for _ in range(40):
      text = "".join(rng.choices("ab", k=rng.randint(1, 14)))
      (ids,) = entry.encode([text])
      pieces = [entry.spelled[id_] for id_ in ids]
      assert own.path(text.encode()) == pieces
      assert [p.encode() for p in other.encode(text, out_type=str)] == pieces


def test_the_library_takes_the_longest_match():
  rng = random.Random(1)
  pieces = ["a", "b", "c", *zoo.random_pieces(rng, ("a", "b", "c"), 12, 5)]
  entry = zoo.word_piece(("a", "b", "c"), pieces, "")
  for _ in range(50):
    text = "".join(rng.choices("abc", k=12))
    rest, wanted = text, []
    while rest:
      wanted.append(max(filter(rest.startswith, pieces), key=len).encode())
      rest = rest[len(wanted[-1]) :]
    (ids,) = entry.encode([text])
    assert [entry.spelled[id_] for id_ in ids] == wanted


def test_a_word_that_becomes_unknown_is_impossible():
  entry = zoo.word_piece(
    ("a", "b"), ["a", "b", "ab", "##a", "##ba"], "##", many=40, ahead=4
  )
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(entry.json))
  assert tokenizer.encode("abb").tokens == ["<unk>"]
  check(entry, 0)
  one = benches.bench_of(entry)
  impossible, possible = benches.scores(one, [b"abb", b"abba"])[:2]
  assert np.isfinite(impossible.total)  # "abba" begins with it
  assert np.isneginf(impossible.next[256])
  assert np.isfinite(possible.next[256])
  assert np.isneginf(benches.scores(one, [b"abbb"])[0].byte[3])


def test_sums_are_those_of_whole_numbers():
  rng = np.random.default_rng(0)
  values = rng.integers(-(2**56), 2**56, (2, 1000))
  values[:, :500] = rng.integers(-3, 3, (2, 500)) * 2**LIMB
  values[:, :250] += rng.integers(-1, 2, (2, 250))

  def limbs(whole):
    parts = whole >> LIMB, whole & (2**LIMB - 1)
    return law.Sum(*(jnp.asarray(part, jnp.int32) for part in parts))

  def whole(sums):
    return np.asarray(sums.high, np.int64) * 2**LIMB + np.asarray(sums.low)

  one, other = map(limbs, values)
  np.testing.assert_array_equal(whole(one), values[0])
  np.testing.assert_array_equal(whole(one + other), values[0] + values[1])
  np.testing.assert_array_equal(whole(one - other), values[0] - values[1])
  np.testing.assert_array_equal(one < other, values[0] < values[1])


def test_rows_are_masked_alike_in_parts(monkeypatch):
  one = benches.make_bench("unigram_ties_1")
  nodes, _, path = scoring.read(one.padded, [one.query(b"abccabacbbacab")])
  standing = scoring._standing(one.padded, nodes, path)
  standing = jax.tree.map(lambda leaf: leaf[0], standing)
  whole, _ = jax.jit(lambda: lemma.mask(one.padded, standing))()
  monkeypatch.setattr(law, "_ROOM", 1500)
  monkeypatch.setattr(law, "_LANES", 3)
  parts, _ = jax.jit(lambda: lemma.mask(one.padded, standing))()
  np.testing.assert_array_equal(whole, parts)
  assert not whole[: nodes.count[0]].all()


@pytest.mark.parametrize("name", ["gpt2", "wordpiece", "unigram_ties_1"])
def test_nodes_stand_alike_alone_and_among_all(name):
  one = benches.make_bench(name)
  text = max(one.texts(), key=len)
  nodes, _, path = scoring.read(one.padded, [one.query(text)])
  own = np.array([3, 0, nodes.count[0] - 1, 3])
  every = scoring._standing(one.padded, nodes, path)
  nodes, path = jax.tree.map(lambda leaf: leaf[0], (nodes, path))
  some = token_tree.standing(one.padded, nodes, path, own)
  for found, wanted in zip(
    jax.tree.leaves(some), jax.tree.leaves(every), strict=True
  ):
    np.testing.assert_array_equal(found, wanted[0, own])


@pytest.mark.parametrize("name", ["wordpiece", "unigram_fallback"])
def test_tables_come_back_from_disk(name, tmp_path):
  tables = compiled(zoo.ZOO[name]())
  cache.save(tables, tmp_path / "tables")
  again = cache.restore(tmp_path / "tables")
  assert jax.tree.structure(again) == jax.tree.structure(tables)
  for one, other in zip(
    jax.tree.leaves(again), jax.tree.leaves(tables), strict=True
  ):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def test_a_mark_that_a_piece_may_start_with_is_refused():
  pieces = ["a", "#", "##a", "###"]
  with pytest.raises(UnsupportedTokenizerError, match="'##'"):
    compiled(zoo.word_piece(("a", "#"), pieces, "##"))
  # Where every mark's letter is cut off it does no harm.
  cut = pre_tokenizers.Punctuation("isolated")
  entry = zoo.word_piece(("a", "#"), pieces, "##", cut, ahead=3, many=40)
  check(entry, 0)


def test_what_may_leave_no_way_to_go_on_is_refused():
  # After E3 81 a character needs 80 or 81. The token 81 81 always bars the
  # one, the token 20 E3 81 80 the other only if a space stands before.
  pieces = [b"\xe3", b"\x80", b"\x81", b" ", b"\x81\x81"]
  level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  compiled(zoo.word_piece((" ",), pieces, "", level, by_bytes=True))
  pieces.append(b" \xe3\x81\x80")
  with pytest.raises(UnsupportedTokenizerError, match="no way to go on"):
    compiled(zoo.word_piece((" ",), pieces, "", level, by_bytes=True))


@pytest.mark.parametrize(
  "scores, message",
  [
    ({"a": -1.0, "ab": -2.0}, "holds b'b'"),
    ({"a": -1.0, "b": 1e9}, "score"),
    ({"a": -1.0, "b": float("nan")}, "score"),
  ],
)
def test_unigram_pieces_that_cannot_be_added_up_are_refused(scores, message):
  entry = zoo.ZOO["unigram_1"]()
  model = entry.json["model"] | {
    "vocab": [["<unk>", 0.0], *map(list, scores.items())]
  }
  entry = dataclasses.replace(entry, json=entry.json | {"model": model})
  with pytest.raises(UnsupportedTokenizerError, match=message):
    compiled(entry)


def test_a_character_that_is_cut_out_need_not_be_a_piece():
  added = [AddedToken("b", normalized=False, special=False)]
  scores = {"a": -1.0, "b": -1.0, "ab": -1.5, "aa": -1.5}
  check(zoo.unigram(("a", "b"), scores, added=added, ahead=4, many=40), 0)
