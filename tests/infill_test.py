"""Host: prompts to fill in the middle, and what is said of middles."""

import dataclasses
import functools
import pathlib

import benches
import jax
import numpy as np
import oracle
import pytest
import tokenizers
import tokenizers_zoo
from tokenizers import normalizers

import byteprob
from byteprob import hub, infill
from byteprob.errors import PromptError
from byteprob.models import gguf_file
from byteprob.prompt import Bare
from byteprob.tokenization import load_tables
from byteprob.tokenization.gguf import WHOLE
from experiments import _data, _tokenizers

SPACE = "\u2581"
EOS = 256
MERGES = [("a", "b"), (" ", "ab"), (" ", "a"), ("b", "b")]
PIECES = (SPACE, "a", "b", "ab", f"{SPACE}ab", f"{SPACE}a", "bb")


def byte_level():
  return tokenizers_zoo.byte_level(("a", "b", " "), MERGES, None)


def spaced(prepend: bool = True):
  """Llama 2's kind, with a space before the text or without."""
  parts = [normalizers.Prepend(SPACE)] * prepend
  return tokenizers_zoo.character_level(
    ("a", "b", " "),
    PIECES,
    tokenizers_zoo.splits(PIECES),
    normalizer=normalizers.Sequence([*parts, normalizers.Replace(" ", SPACE)]),
    prefixed=prepend,
  )


def with_tokens(entry, special, *, plain=(), start=(), ends):
  """A tokenizer with more added tokens, special ones and plain ones."""
  size = len(entry.spelled)
  added = [*special, *plain]
  data = dict(entry.json)
  data["added_tokens"] = [
    *data["added_tokens"],
    *(
      {
        "id": size + k,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": text in special,
      }
      for k, text in enumerate(added)
    ),
  ]
  ids = {token["content"]: token["id"] for token in data["added_tokens"]}
  return dataclasses.replace(
    entry,
    json=data,
    spelled=(
      *entry.spelled,
      *(None if text in special else text.encode() for text in added),
    ),
    start=tuple(ids[text] for text in start),
    ends=tuple(ids[text] for text in ends),
  )


PREFIX, SUFFIX = "ab a", "b ab"
PIPES = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
DEEPSEEK = (
  "<\uff5cfim\u2581begin\uff5c>",
  "<\uff5cfim\u2581hole\uff5c>",
  "<\uff5cfim\u2581end\uff5c>",
)
STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
CODELLAMA = tuple(f"{SPACE}<{name}>" for name in ("PRE", "SUF", "MID", "EOT"))
END_OF_SENTENCE = "<\uff5cend\u2581of\u2581sentence\uff5c>"

MODELS = {
  "codellama": lambda: with_tokens(
    spaced(), CODELLAMA, start=["<s>"], ends=["</s>"]
  ),
  "starcoder": lambda: with_tokens(
    byte_level(), [*STARCODER, "<|endoftext|>"], ends=["<|endoftext|>"]
  ),
  "starcoder2": lambda: with_tokens(
    byte_level(),
    [*STARCODER, "<|endoftext|>", "<file_sep>"],
    ends=["<|endoftext|>"],
  ),
  "codegemma": lambda: with_tokens(
    spaced(prepend=False),
    [*PIPES, "<|file_separator|>"],
    start=["<s>"],
    ends=["</s>"],
  ),
  "qwen2.5-coder": lambda: with_tokens(
    byte_level(),
    ["<|endoftext|>"],
    plain=[*PIPES, "<|repo_name|>"],
    ends=["<|endoftext|>"],
  ),
  "deepseek-coder": lambda: with_tokens(
    byte_level(),
    [END_OF_SENTENCE],
    plain=DEEPSEEK,
    start=["<s>"],
    ends=[END_OF_SENTENCE],
  ),
  "stdlib": lambda: with_tokens(spaced(), PIPES, start=["<s>"], ends=["</s>"]),
}


@functools.cache
def bench(family):
  return benches.bench_of(MODELS[family](), seed=3)


def named(one, ids):
  """Tokens as texts; a space is a space."""
  names = {
    token["id"]: token["content"] for token in one.entry.json["added_tokens"]
  }
  return [
    names[id_] if id_ in names else one.entry.spelled[id_].decode()
    for id_ in ids
  ]


# Prompts ---------------------------------------------------------------------

PROMPTS = {
  ("codellama", "psm"): [
    "<s>", CODELLAMA[0], " ab", " a", CODELLAMA[1], "b", " ab", CODELLAMA[2],
  ],
  ("codellama", "joint_spm"): [
    "<s>", CODELLAMA[0], CODELLAMA[1], "b", " ab", CODELLAMA[2], " ab", " a",
  ],
  ("starcoder", "psm"): [
    "<fim_prefix>", "ab", " a", "<fim_suffix>", "b", " ab", "<fim_middle>",
  ],
  ("starcoder", "joint_spm"): [
    "<fim_prefix>", "<fim_suffix>", "b", " ab", "<fim_middle>", "ab", " a",
  ],
  ("starcoder2", "psm"): [
    "<fim_prefix>", "ab", " a", "<fim_suffix>", "b", " ab", "<fim_middle>",
  ],
  ("codegemma", "psm"): [
    "<s>", PIPES[0], "ab", " a", PIPES[1], "b", " ab", PIPES[2],
  ],
  ("codegemma", "spm"): [
    "<s>", PIPES[1], "b", " ab", PIPES[0], "ab", " a", PIPES[2],
  ],
  ("qwen2.5-coder", "psm"): [
    PIPES[0], "ab", " a", PIPES[1], "b", " ab", PIPES[2],
  ],
  ("deepseek-coder", "psm"): [
    "<s>", DEEPSEEK[0], "ab", " a", DEEPSEEK[1], "b", " ab", DEEPSEEK[2],
  ],
  ("stdlib", "psm"): [
    "<s>", PIPES[0], " ab", " a", PIPES[1], " ", "b", " ab", PIPES[2],
  ],
  ("stdlib", "joint_spm"): [
    "<s>", PIPES[0], PIPES[1], " ", "b", " ab", PIPES[2], " ab", " a",
  ],
}  # fmt: skip

ENDS = {
  "codellama": ["</s>", CODELLAMA[3]],
  "starcoder": ["<|endoftext|>"],
  "starcoder2": ["<|endoftext|>", "<file_sep>"],
  "codegemma": ["</s>", "<|file_separator|>"],
  "qwen2.5-coder": ["<|endoftext|>"],
  "deepseek-coder": [END_OF_SENTENCE],
  "stdlib": ["</s>"],
}


@pytest.mark.parametrize("family", MODELS)
def test_families_are_known_by_their_tokens(family):
  one = bench(family)
  found = infill.format_of(one.tables)
  assert found.family is infill.FAMILIES[family]
  assert found == infill.format_of(one.tables, family)
  assert named(one, found.ends) == ENDS[family]


@pytest.mark.parametrize(("family", "order"), PROMPTS)
def test_prompts_are_those_of_the_family(family, order):
  one = bench(family)
  form = infill.format_of(one.tables)
  lm = one.byte_lm()
  wanted = PROMPTS[family, order]
  assert named(one, lm.encode(form.context(PREFIX, SUFFIX, order))) == wanted
  if order == "psm":
    assert form.context(PREFIX, SUFFIX) == form.context(PREFIX, SUFFIX, "psm")


def test_code_llamas_suffix_is_encoded_as_its_own_code_does():
  one = bench("codellama")
  tokenizer = tokenizers.Tokenizer.from_str(
    tokenizers_zoo.json.dumps(one.entry.json)
  )
  form = infill.format_of(one.tables)
  lm = one.byte_lm()
  for suffix in ("b ab", " ab", "ab", "bab  a", ""):
    behind = tokenizer.encode("\u263a" + suffix, add_special_tokens=False).ids
    ids = lm.encode(form.context("", suffix, "psm"))
    assert list(ids) == [
      *form.start, form.prefix, form.suffix, *behind[2:], form.middle,
    ]  # fmt: skip


LARGER = (
  pathlib.Path(__file__).parents[1]
  / "results/train_lm/fim30m/python-fim-29m.gguf"
)


@pytest.mark.parametrize(
  "name", ["stdlib-bpe", "stdlib-spm", "python-fim", "python-fim-29m"]
)
def test_prompts_of_our_models_are_what_they_were_trained_on(name, tmp_path):
  if name == "python-fim-29m":
    tables = load_tables(LARGER)
    path = tmp_path / "tokenizer.json"
    path.write_text(gguf_file.read_gguf(LARGER).metadata[WHOLE])
  else:
    tables = load_tables(name)
    path = hub.resolve(name) / "tokenizer.json"
  tokenizer = _data.load_tokenizer(path)
  form = infill.format_of(tables)
  text = "def f(x):\n  return [x for x in range(10)]\n" * 3
  rng = np.random.default_rng(4)
  orders = set()
  for _ in range(12):
    state = rng.bit_generator.state
    [trained] = _data.fill_in_the_middle(
      tokenizer, _tokenizers.markers(tokenizer), [text], rng, joint=True
    )
    rng.bit_generator.state = state
    prefix, middle, suffix = _data.split(text, rng)
    order = "psm" if rng.integers(0, 2, size=1)[0] else "joint_spm"
    orders.add(order)
    *parts, last = form.context(prefix, suffix, order)
    # The middle goes on: from nothing in PSM, from the prefix in SPM.
    found = []
    for part in [*parts, last + middle.encode()]:
      if isinstance(part, bytes):
        assert not isinstance(part, Bare)
        found += _data.encode(tokenizer, [part.decode()])[0]
      else:
        found.append(part)
    assert found == [_tokenizers.markers(tokenizer).start, *trained]
  assert len(orders) == 2


def test_parts_may_be_empty():
  one = bench("codellama")
  form = infill.format_of(one.tables)
  lm = one.byte_lm()
  pre, suf, mid = form.prefix, form.suffix, form.middle
  for order, wanted in {
    "psm": (pre, suf, mid), "joint_spm": (pre, suf, mid), "spm": (suf, pre, mid)
  }.items():  # fmt: skip
    assert lm.encode(form.context("", "", order)) == (*form.start, *wanted)


def test_a_prefix_may_stop_inside_a_character_where_the_middle_goes_on():
  form = infill.format_of(bench("starcoder").tables)
  lm = bench("starcoder").byte_lm()
  prefix = "é".encode()[:-1]
  with pytest.raises(PromptError, match="complete the character"):
    lm._cut(form.context(prefix, "a", "psm"))
  assert form.context(prefix, "a", "joint_spm")[-1] == prefix


# What is said of middles -----------------------------------------------------


def law(one, form, ids, spaces):
  """The brute force after token ids; `spaces`: a space comes first."""
  entry = one.entry if spaces else spaced(prepend=False)
  if not one.entry.prefixed:
    entry = one.entry
  truth = oracle.Oracle(
    entry.encode,
    one.entry.spelled,
    entry.alphabet,
    ahead=entry.ahead,
    ends=form.ends,
    prefixed=entry.prefixed,
  )
  return oracle.Reference(truth, one.logits, ids)


def wanted_logprobs(reference, before, middle):
  """Log-probs of a middle's bytes and of its end, after bytes."""
  prefixed = reference.oracle._prefixed
  text = b" " * prefixed + before + middle
  each = reference.each(text)
  if prefixed and not before and middle:
    each = np.concatenate([[each[0] + each[1]], each[2:]])
  if prefixed and not before and not middle:
    bare = reference.next(b"")[EOS]
    return [
      np.logaddexp(reference.total(b" ") + reference.next(b" ")[EOS], bare)
    ]
  own = each[len(each) - len(middle) :] if middle else []
  return [*own, reference.next(text)[EOS]]


MIDDLES = [
  ("ab a", "b ab", "b ab"),
  ("", "ab", "b"),
  ("ab", "", " ab"),
  (" a", "bb", ""),
  ("", "", "a"),
]


@pytest.mark.parametrize(
  ("family", "order"),
  [
    ("codellama", "psm"),
    ("codellama", "joint_spm"),
    ("starcoder2", "joint_spm"),
    ("stdlib", "psm"),
  ],
)
def test_middles_have_the_brute_forces_log_probs(family, order):
  one = bench(family)
  lm = one.byte_lm()
  form = infill.format_of(one.tables)
  own = infill.FAMILIES[family]
  for prefix, middle, suffix in MIDDLES:
    found = lm.infill_logprobs(prefix, middle, suffix, order=order)
    assert found.dtype == np.float32 and len(found) == len(middle) + 1
    context = form.context("" if order != "psm" else prefix, suffix, order)
    ids = lm.encode(context)
    spaces = own.spaced or order != "psm"
    reference = law(one, form, ids, spaces)
    before = prefix.encode() if order != "psm" else b""
    benches.close(
      found, wanted_logprobs(reference, before, middle.encode()), 2e-5
    )


def test_all_ends_of_a_middle_count():
  """The end's probability is that of all tokens that mean it."""
  one = bench("starcoder2")
  lm = one.byte_lm()
  whole = lm.infill_logprobs("ab", "", "b", order="psm")[-1]
  form, _ = lm.infiller(None)
  ids = lm.encode(form.context("ab", "b", "psm"))
  row = one.logits(ids)
  kids = [t for t, piece in enumerate(one.entry.spelled) if piece]
  # All tokens may begin a text.
  norm = np.logaddexp.reduce(row[[*kids, *form.ends]])
  wanted = np.logaddexp.reduce(row[list(form.ends)]) - norm
  assert len(form.ends) == 2
  np.testing.assert_allclose(whole, wanted, atol=2e-5)


# Middles that are drawn ------------------------------------------------------


GREEDY = {"order": "joint_spm", "greedy": True}


def test_greedy_middles_are_the_brute_forces():
  one = bench("starcoder2")
  lm = one.byte_lm()
  form = infill.format_of(one.tables)
  ids = lm.encode(form.context("", SUFFIX, "joint_spm"))
  reference = law(one, form, ids, True)
  key = jax.random.key(0)
  differ = 0
  for prefix in ("ab a", "b", " a"):
    wanted = b""
    while len(wanted) < 4:
      symbol = reference.next(prefix.encode() + wanted).argmax()
      if symbol == EOS:
        break
      wanted += bytes([symbol])
    found = lm.infill(prefix, SUFFIX, key, 4, **GREEDY)
    assert found.text == wanted
    assert (found.reason == "end") == (len(wanted) < 4)
    usual = lm.infill(prefix, SUFFIX, key, 4, method="token", **GREEDY)
    differ += usual.text != wanted
  assert differ, "token prompting does something else"


def test_a_middle_ends_where_its_end_token_comes():
  one = bench("starcoder2")
  form = infill.format_of(one.tables)
  (end,) = set(form.ends) - set(one.entry.ends)
  # A model that goes for it there. No token goes on after "bb".
  ids = one.byte_lm().encode(form.context("bb", SUFFIX, "joint_spm"))
  head = one.model.params["head"]
  hidden = one.logits(ids) @ np.linalg.pinv(np.asarray(head, np.float64))
  sure = jax.numpy.zeros_like(head).at[:, end].set(50 * np.sign(hidden))
  model = dataclasses.replace(
    one.model, params={**one.model.params, "head": sure}
  )
  lm = byteprob.ByteLM(model, one.padded)
  for method in ("byte", "token"):
    found = lm.infill(
      "bb", SUFFIX, jax.random.key(0), 4, method=method, **GREEDY
    )
    assert found.text == b"" and found.reason == "end", method


@pytest.mark.slow
@pytest.mark.parametrize("method", ["token", "healing", "alignment", "cover"])
def test_methods_go_on_from_the_prompt(method):
  one = bench("starcoder2")
  lm = one.byte_lm()
  form = infill.format_of(one.tables)
  prompt = lm.encode(form.context(PREFIX, SUFFIX, "joint_spm"))
  how = {"method": method, "order": "joint_spm"}
  pairs = [(PREFIX, SUFFIX)] * 4
  found = lm.infill_batch(pairs, jax.random.key(1), 4, **how)
  # The prefix is two tokens; all others stand as they are.
  fixed = len(prompt) - 2
  kept = len(prompt) - {"token": 0, "healing": 1}.get(method, 2)
  for sample in found:
    assert sample.tokens[:kept] == prompt[:kept]
    rest = [one.entry.spelled[id_] for id_ in sample.tokens[fixed:]]
    assert b"".join(rest).startswith(PREFIX.encode() + sample.text)
    assert sample.reason in ("end", "max_bytes")
  [alone] = lm.infill_batch(pairs[:1], jax.random.key(1), 4, **how)
  assert alone.text == found[0].text


# Mistakes --------------------------------------------------------------------


def test_a_model_without_tokens_to_fill_in():
  lm = benches.make_bench("gpt2").byte_lm()
  with pytest.raises(
    PromptError, match=r"none of the families codellama, .*Family"
  ):
    lm.infill("a", "s", jax.random.key(0), 4)
  with pytest.raises(PromptError, match=r"no '<fim_prefix>'.* families are"):
    lm.infill_logprobs("a", "s", "a", family="starcoder")
  with pytest.raises(ValueError, match="no family 'gpt'"):
    lm.infill("a", "s", jax.random.key(0), 4, family="gpt")


def test_other_tokens_may_be_given():
  one = bench("codegemma")
  family = infill.Family(
    prefix=PIPES[2], suffix=PIPES[0], middle=PIPES[1], start=False
  )
  form = infill.format_of(one.tables, family)
  ids = one.byte_lm().encode(form.context("a", "b"))
  assert named(one, ids) == [PIPES[2], "a", PIPES[0], "b", PIPES[1]]
  assert named(one, form.ends) == ["</s>"]
  text = dataclasses.replace(family, ends=("ab",))
  with pytest.raises(PromptError, match="'ab' ends the middle"):
    infill.format_of(one.tables, text)


def test_orders_and_methods_that_are_none():
  lm = bench("starcoder").byte_lm()
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="order must be one of psm, spm, joint"):
    lm.infill("a", "b", key, 4, order="mps")
  with pytest.raises(ValueError, match="method must be one of"):
    lm.infill("a", "b", key, 4, method="heal")
  with pytest.raises(ValueError, match="no setting 'draft'"):
    lm.infill("a", "b", key, 4, draft=lm)
  with pytest.raises(ValueError, match="max_bytes"):
    lm.infill("a", "b", key, 0)
