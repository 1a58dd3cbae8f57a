"""Host: what users pass is taken in one form, or refused in one sentence."""

import array
import ast
import dataclasses
import inspect
import pathlib
import re
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byteprob import ByteLM, arguments, constraints
from byteprob.constraints import Constraint
from byteprob.errors import ByteprobError, ConstraintError, PromptError
from byteprob.prompt import Bare
from byteprob.sampling import SamplingParams, TokenSamplingParams
from byteprob.session import Session, Sessions

LONE = "a\ud800"


class Foreign:
  """What another library may hand over as an array."""

  def __init__(self, values):
    self.values = values

  def __array__(self, dtype=None, copy=None):
    if isinstance(self.values, Exception):
      raise self.values
    return np.array(self.values, dtype)


def refused(kind, message, call, *args, **kwargs):
  """Checks that a call is refused, in one sentence that has these words."""
  with pytest.raises(ValueError, match=message) as caught:
    call(*args, **kwargs)
  assert caught.type is kind
  said = str(caught.value)
  assert "\n" not in said
  # Nothing but the question to the user ends a sentence inside.
  assert not re.search(r"[.!] [A-Z]", said)
  assert said.endswith(".") == issubclass(kind, ByteprobError)


# Texts -----------------------------------------------------------------------


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    (b"", b""),
    ("é", b"\xc3\xa9"),
    (bytearray(b"a\xff"), b"a\xff"),
    (np.str_("a"), b"a"),
    (np.bytes_(b"a"), b"a"),
  ],
)
def test_a_text(value, expected):
  found = arguments.text(value)
  assert found == expected and type(found) is bytes


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (None, "^prefix is None; give bytes or str: ids differ"),
    (3, "prefix is 3;"),
    (["a"], "prefix is of type list;"),
    ([1, b"a"], "prefix is of type list;"),
    (memoryview(b"a"), "prefix is of type memoryview;"),
    (LONE, "^prefix: .*lone surrogate at character 1"),
  ],
)
def test_what_is_no_text(value, message):
  refused(PromptError, message, arguments.text, value, "prefix", "ids differ")


def test_a_text_may_be_asked_for_without_a_reason():
  refused(PromptError, "^text is 3; give bytes or str.$", arguments.text, 3)


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    (b"a", b"a"),
    ("é", b"\xc3\xa9"),
    (bytearray(b"a"), b"a"),
    ([], []),
    (["é", b"b", bytearray(b"c"), 3], [b"\xc3\xa9", b"b", b"c", 3]),
    (("a", 3), [b"a", 3]),
    ([np.int64(3), np.uint8(4), np.array(5), jnp.int32(6)], [3, 4, 5, 6]),
    (np.array([3, 4]), [3, 4]),
    (jnp.array([3, 4]), [3, 4]),
    (Foreign([3, 4]), [3, 4]),
    (array.array("i", [3, 4]), [3, 4]),
    (range(3, 5), [3, 4]),
    # Which tokens there are is the model's to say.
    ([-1, 10**9], [-1, 10**9]),
  ],
)
def test_a_context(value, expected):
  found = arguments.context(value)
  assert found == expected
  assert type(found) is type(expected)
  if isinstance(found, list):
    assert {type(item) for item in found} <= {bytes, int}


def test_what_is_given_may_change_later():
  whole, part = bytearray(b"a"), bytearray(b"b")
  first, second = arguments.texts([whole, [part]])
  whole[:], part[:] = b"x", b"y"
  assert (first, second) == (b"a", [b"b"])


def test_bytes_that_no_space_is_put_before_stay_so():
  found = arguments.texts([[3, Bare(b"a")]])
  assert isinstance(found[0][1], Bare)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (None, "^contexts is None; give a list of texts"),
    ("abc", r'^contexts is one text .* give a list, such as \["text"\], or'),
    ("", "^contexts is one text"),
    (b"abc", r'one text .* such as \[b"text"\], or use the method for one'),
    (bytearray(b"abc"), "one text"),
    (5, "^contexts is 5; give a list"),
    ({"a": 1}, "of type dict; give a list"),
    ({"a"}, "of type set; give a list"),
    (iter(["a"]), "of type list_iterator; give a list"),
    (memoryview(b"a"), "of type memoryview; give a list"),
    (np.array("a"), "^contexts is 'a'; give a list"),
    (Foreign(3), "of type Foreign; give a list"),
    (Foreign(TypeError("on a GPU")), "of type Foreign; give a list"),
    (Foreign(RuntimeError("has a gradient")), "of type Foreign; give a list"),
    (Foreign(ValueError("is too large")), "of type Foreign; give a list"),
    (np.ndarray, "of type type; give a list"),
    (Foreign, "of type type; give a list"),
    ([b"a", None], r"^contexts\[1\] is None, and a context is bytes, a str"),
    ([5], r"contexts\[0\] is 5, .* put token ids in a list of their own"),
    ([3, 4], r"contexts\[0\] is 3, .* a list of their own"),
    (np.array([3, 4]), r"contexts\[0\] is 3, .* a list of their own"),
    ([2.5], r"contexts\[0\] is 2.5, .* token ids\.$"),
    ([True], r"contexts\[0\] is True, .* token ids\.$"),
    ([np.True_], r"contexts\[0\] is True, .* token ids\.$"),
    (["a", {"b": 1}], r"contexts\[1\] is of type dict,"),
    ([{"a"}], r"contexts\[0\] is of type set,"),
    ([memoryview(b"a")], r"contexts\[0\] is of type memoryview,"),
    ([object()], r"contexts\[0\] is of type object,"),
    ([np.array([1.0])], r"contexts\[0\]\[0\] is 1.0, and a context's list"),
    ([jnp.ones(2)], r"contexts\[0\]\[0\] is 1.0,"),
    ([np.ones((1, 1), int)], r"contexts\[0\]\[0\] is of type ndarray,"),
    ([np.array([True])], r"contexts\[0\]\[0\] is True,"),
    (["a", ["b", True]], r"contexts\[1\]\[1\] is True,"),
    ([["b", None]], r"contexts\[0\]\[1\] is None,"),
    ([[3.0]], r"contexts\[0\]\[0\] is 3.0,"),
    ([["a", ["b"]]], r"contexts\[0\]\[1\] is of type list,"),
    (["a", LONE], r"^contexts\[1\]: .* lone surrogate"),
    (["a", [3, LONE]], r"^contexts\[1\]\[1\]: .* lone surrogate"),
  ],
)
def test_what_is_no_batch_of_contexts(value, message):
  refused(PromptError, message, arguments.texts, value)


def test_what_is_no_context():
  message = "^context is None, and a context is bytes, a str, or a list"
  refused(PromptError, message, arguments.context, None)


def test_a_tracer_is_no_batch():
  def traced(value):
    refused(PromptError, "give a list", arguments.texts, value)
    return value

  jax.make_jaxpr(traced)(jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ([], []),
    (("a", b"b"), [b"a", b"b"]),
    (["a", [3, "b"]], [b"a", [3, b"b"]]),
    ([""], [b""]),
    (np.array(["a", "bc"]), [b"a", b"bc"]),
    (np.array(["a", b"b"], object), [b"a", b"b"]),
    (np.array([[3, 4], [5, 6]]), [[3, 4], [5, 6]]),
    (Foreign(["a"]), [b"a"]),
  ],
)
def test_a_batch_of_contexts(value, expected):
  found = arguments.texts(value)
  assert found == expected and type(found) is list


def test_a_batch_is_a_list_of_its_own():
  given = [b"a"]
  found = arguments.texts(given)
  given.append(b"b")
  assert found == [b"a"]


@pytest.mark.parametrize(
  ("texts", "contexts", "expected"),
  [
    (["a", b"b"], None, ([b"a", b"b"], [b"", b""])),
    ([], None, ([], [])),
    ([], [], ([], [])),
    (("a",), [[3]], ([b"a"], [[3]])),
  ],
)
def test_texts_and_their_contexts(texts, contexts, expected):
  assert arguments.pairs(texts, contexts) == expected


@pytest.mark.parametrize(
  ("texts", "contexts", "kind", "message"),
  [
    (["a", "b"], ["c"], ValueError, "are 2 texts and 1 contexts"),
    (["a"], ["b", "c"], ValueError, "are 1 texts and 2 contexts"),
    (["a"], [], ValueError, "are 1 texts and 0 contexts"),
    (["a"], "b", PromptError, "^contexts is one text"),
    ("a", ["b"], PromptError, "^texts is one text"),
    ([None], None, PromptError, r"^texts\[0\] is None"),
    (["a"], [None], PromptError, r"^contexts\[0\] is None"),
  ],
)
def test_texts_that_do_not_go_with_contexts(texts, contexts, kind, message):
  refused(kind, message, arguments.pairs, texts, contexts)


# What texts are drawn with ---------------------------------------------------


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ("\n", (b"\n",)),
    (b"\n\n", (b"\n\n",)),
    (bytearray(b"\n"), (b"\n",)),
    ("é", (b"\xc3\xa9",)),
    ((), ()),
    ([], ()),
    ([b"a", "é", bytearray(b"c")], (b"a", b"\xc3\xa9", b"c")),
    (("a",), (b"a",)),
    (np.array(["a", "b"]), (b"a", b"b")),
  ],
)
def test_stop_strings(value, expected):
  found = arguments.stops(value)
  assert found == expected
  assert hash(found) == hash(expected)  # for what is static to a compiler


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (None, "^stop must be a str, bytes, or a list of these, not None"),
    (10, "not 10"),
    ({"a"}, "not of type set"),
    ({"a": 1}, "not of type dict"),
    ("", "^stop is empty"),
    (b"", "^stop is empty"),
    (["a", ""], r"^stop\[1\] is empty"),
    ([10], r"^stop\[0\] is 10, and a stop string is a str or bytes"),
    ([["a"]], r"^stop\[0\] is of type list"),
    (["a", None], r"^stop\[1\] is None"),
    (memoryview(b"a"), "not of type memoryview"),
  ],
)
def test_what_is_no_stop_string(value, message):
  refused(ValueError, message, arguments.stops, value)


def test_a_stop_string_is_unicode():
  message = r"^stop\[1\]: .*lone surrogate"
  refused(PromptError, message, arguments.stops, ["a", LONE])


def same_keys(one, other):
  np.testing.assert_array_equal(
    jax.random.key_data(one), jax.random.key_data(other)
  )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_one_key_is_folded_and_several_are_taken(impl):
  key = jax.random.key(3, impl=impl)
  for count in (0, 1, 3):
    found = arguments.keys(key, count)
    assert found.shape == (count,) and found.dtype == key.dtype
    for k in range(count):
      same_keys(found[k], jax.random.fold_in(key, k))
  several = jax.random.split(key, 3)
  same_keys(arguments.keys(several, 3), several)


@pytest.mark.parametrize(
  ("key", "message"),
  [
    (0, r"^key is 0 .* for this seed write jax.random.key\(0\)$"),
    (np.int64(7), r"^key is 7 .* write jax.random.key\(7\)$"),
    (-1, r"^key is -1 .* such as jax.random.key\(0\)$"),
    (2**32, r"such as jax.random.key\(0\)$"),
    pytest.param(10**5000, "^key is so large a number", id="huge"),
    (True, "^key is True .* take one from jax.random.key"),
    (None, "^key is None .* take one from jax.random.key"),
    (0.5, "^key is 0.5 "),
    ("a", "^key is 'a' "),
    (np.zeros(2, np.uint32), "^key is of type ndarray .* take one from"),
    ([0, 1], "^key is of type list"),
    (np.array(0), "^key is 0 "),
    (jnp.float32(0), "array of float32"),
  ],
)
def test_what_is_no_key(key, message):
  refused(ValueError, message, arguments.keys, key, 2)


def test_a_legacy_key_is_none():
  message = "array of uint32 .* jax.random.key, not PRNGKey"
  for key in (jax.random.PRNGKey(0), jax.random.split(jax.random.PRNGKey(0))):
    refused(ValueError, message, arguments.keys, key, 2)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_keys_are_one_for_each_text(shape):
  key = jax.random.split(jax.random.key(0), shape)
  message = f"one key, or one for each text: 2, not {re.escape(str(shape))}"
  refused(ValueError, message, arguments.keys, key, 2)


def test_a_key_is_nothing_else():
  key = jax.random.key(0)
  refused(PromptError, "give a list", arguments.texts, key)
  refused(PromptError, "give a list", arguments.texts, key[None])
  given = {"count": 1, "share": key}
  refused(ValueError, "^share must be", arguments.settings, Loose, given)


# Made once, so that the tests do not take so many processes.
@pytest.fixture(scope="module")
def yes() -> Constraint:
  return constraints.compile_regex("(?i)yes|no")


@pytest.mark.parametrize(
  "value",
  [
    "(?i)yes|no",
    np.str_("(?i)yes|no"),
    re.compile("(?i)yes|no"),
  ],
)
def test_a_pattern_is_made_an_automaton(value, yes):
  found = arguments.constraint(value)
  assert isinstance(found, Constraint)
  np.testing.assert_array_equal(found.next, yes.next)
  np.testing.assert_array_equal(found.final, yes.final)


def test_a_constraint_is_taken_as_it_is():
  free = Constraint.free()
  assert arguments.constraint(free) is free
  assert arguments.constraint(None) is None


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (re.compile("a", re.I), r"flags.* write them inline, such as \(\?i\)"),
    (re.compile("(?i)a", re.S), "flags"),
    (re.compile("a", re.ASCII), "flags"),
    (re.compile("a # (", re.X), "flags"),
    (re.compile(b"a"), "a pattern of bytes; give it as a str"),
    (b"a", "a pattern of bytes; give it as a str"),
    (bytearray(b"a"), "a pattern of bytes; give it as a str"),
    (3, "^The constraint is 3; give a regular expression as a str"),
    (["a"], "^The constraint is of type list"),
    (tuple(Constraint.free()), "^The constraint is of type tuple"),
    (str, "^The constraint is of type type"),
  ],
)
def test_what_is_no_constraint(value, message):
  refused(ConstraintError, message, arguments.constraint, value)


def test_a_pattern_that_warns_has_done_so_already():
  with pytest.warns(FutureWarning):
    given = re.compile("[[a]", re.I)
  re.purge()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    refused(ConstraintError, "flags", arguments.constraint, given)


def test_a_pattern_too_deep_without_its_flags(monkeypatch):
  def deep(_):
    raise RecursionError

  given = re.compile("a", re.I)
  with monkeypatch.context() as patch, pytest.raises(ConstraintError):
    patch.setattr(re, "compile", deep)
    arguments.constraint(given)


def test_a_pattern_that_cannot_be_read_is_named():
  with pytest.raises(ConstraintError, match=r"'\(' cannot be read"):
    arguments.constraint("(")


# Settings --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loose:
  """Settings that are of any range."""

  count: int
  share: float = 0.5
  sure: bool = False
  how: Literal["one", "two"] = "one"
  stop: tuple[bytes, ...] = ()
  other: object = None
  made: list = dataclasses.field(default_factory=list)
  size: int = dataclasses.field(init=False, repr=False, compare=False)


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ({}, {}),
    ({"count": np.int64(5)}, {"count": 5}),
    ({"count": np.array(5)}, {"count": 5}),
    ({"count": jnp.int32(5)}, {"count": 5}),
    ({"count": -(2**31) + 1}, {"count": -(2**31) + 1}),
    ({"share": 1}, {"share": 1.0}),
    ({"share": 0}, {"share": 0.0}),
    ({"share": np.float32(0.5)}, {"share": 0.5}),
    ({"share": np.float64(0.25)}, {"share": 0.25}),
    ({"share": np.longdouble(0.25)}, {"share": 0.25}),
    ({"share": np.int8(2)}, {"share": 2.0}),
    ({"share": jnp.bfloat16(0.5)}, {"share": 0.5}),
    ({"sure": True}, {"sure": True}),
    ({"sure": np.True_}, {"sure": True}),
    ({"how": "two"}, {"how": "two"}),
    ({"how": np.str_("two")}, {"how": "two"}),
    ({"stop": "\n"}, {"stop": (b"\n",)}),
    ({"stop": [b"a", "b"]}, {"stop": (b"a", b"b")}),
    ({"other": {}}, {"other": {}}),
  ],
)
def test_settings(given, expected):
  found = arguments.settings(Loose, {"count": 1} | given)
  assert found == Loose(**({"count": 1} | expected))
  for name, value in expected.items():
    assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"count": 2.5}, "^count must be an integer, not 2.5$"),
    ({"count": 2.0}, "^count must be an integer, not 2.0$"),
    ({"count": np.float32(2)}, "^count must be an integer, not 2.0$"),
    ({"count": True}, "^count must be an integer, not True$"),
    ({"count": np.True_}, "^count must be an integer, not True$"),
    ({"count": None}, "^count must be an integer, not None$"),
    ({"count": "3"}, "^count must be an integer, not '3'$"),
    ({"count": [3]}, "^count must be an integer, not of type list$"),
    ({"count": np.array([3])}, "not of type ndarray$"),
    ({"count": float("nan")}, "^count must be an integer, not nan$"),
    ({"count": 2**31}, "^count must fit in 32 bits, not be 2147483648$"),
    ({"count": -(2**31)}, "^count must fit in 32 bits"),
    pytest.param(
      {"count": 10**5000}, "^count must fit .* so large a number$", id="huge"
    ),
    ({"share": "hot"}, "^share must be a number, not 'hot'$"),
    ({"share": "x" * 99}, r"^share must be a number, not 'x{40}' and so on$"),
    ({"share": None}, "^share must be a number, not None$"),
    ({"share": True}, "^share must be a number, not True$"),
    ({"share": 1j}, "^share must be a number, not 1j$"),
    ({"share": [0.5]}, "^share must be a number, not of type list$"),
    ({"share": float("nan")}, "^share must be a finite number.* not nan$"),
    ({"share": float("inf")}, "^share must be a finite number.* not inf$"),
    ({"share": -float("inf")}, "^share must be a finite number.* not -inf$"),
    ({"share": -(10**400)}, "^share must be a finite number.* not -inf$"),
    ({"share": 10**400}, "^share must be a finite number.* not inf$"),
    ({"share": 1e39}, "^share must be a finite number.* not 1e.39$"),
    ({"share": 1e-50}, "^share must not be so close to 0: 1e-50 is 0"),
    ({"share": 1e-39}, "^share must not be so close to 0"),
    ({"sure": 2}, "^sure must be True or False, not 2$"),
    ({"sure": 1}, "^sure must be True or False, not 1$"),
    ({"sure": None}, "^sure must be True or False, not None$"),
    ({"sure": "yes"}, "^sure must be True or False, not 'yes'$"),
    ({"how": "three"}, "^how must be one of 'one', 'two', not 'three'$"),
    ({"how": None}, "^how must be one of 'one', 'two', not None$"),
    ({"how": np.array(["one", "two"])}, "^how must be one of"),
    ({"how": ["one"]}, "^how must be one of"),
    ({"stop": None}, "^stop must be a str, bytes"),
    ({"stop": 10}, "^stop must be a str, bytes"),
    ({"stop": ""}, "^stop is empty"),
  ],
)
def test_settings_of_the_wrong_kind(given, message):
  call = arguments.settings
  refused(ValueError, message, call, Loose, {"count": 1} | given)


def test_a_tracer_is_no_setting():
  def traced(value):
    message = "^share must be a number"
    given = {"count": 1, "share": value}
    refused(ValueError, message, arguments.settings, Loose, given)
    return value

  jax.make_jaxpr(traced)(jnp.float32(0.5))


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("temprature", "temperature"),
    ("Temperature", "temperature"),
    ("TOP_P", "top_p"),
    ("topk", "top_k"),
    ("max_tokens", "max_bytes"),
    ("stop_strings", "stop"),
  ],
)
def test_an_unknown_setting_brings_the_nearest_to_mind(name, near):
  with pytest.raises(ValueError) as caught:
    arguments.settings(SamplingParams, {"max_bytes": 4, name: 1})
  assert str(caught.value) == (
    f"there is no setting {name!r}; did you mean {near!r}? The settings are"
    " max_bytes, temperature, top_k, top_p, min_p, greedy, stop, eps, exact"
  )


def test_an_unknown_setting_may_be_near_to_none():
  with pytest.raises(ValueError) as caught:
    arguments.settings(Loose, {"zzz": 1, "count": 1})
  assert str(caught.value) == (
    "there is no setting 'zzz'. The settings are count, share, sure, how,"
    " stop, other, made"
  )


def test_a_setting_that_is_not_for_users_is_none():
  with pytest.raises(ValueError, match="no setting 'size'"):
    arguments.settings(Loose, {"count": 1, "size": 4})


def test_a_missing_setting_is_named():
  message = "^the setting 'count' is missing$"
  refused(ValueError, message, arguments.settings, Loose, {"share": 0.5})


@pytest.mark.parametrize(
  ("cls", "given", "message"),
  [
    (SamplingParams, {"max_bytes": 0}, "^max_bytes must be at least 1, not 0"),
    (SamplingParams, {"max_bytes": -1}, "^max_bytes must be at least 1"),
    (SamplingParams, {"max_bytes": 2.5}, "^max_bytes must be an integer"),
    (SamplingParams, {"max_bytes": True}, "^max_bytes must be an integer"),
    (SamplingParams, {"temperature": "hot"}, "^temperature must be a number"),
    (SamplingParams, {"temperature": None}, "^temperature must be a number"),
    (
      SamplingParams,
      {"temperature": float("nan")},
      "^temperature must be above 0",
    ),
    (
      SamplingParams,
      {"temperature": float("inf")},
      "^temperature must be a finite",
    ),
    (
      SamplingParams,
      {"temperature": 0},
      "^temperature must be above 0.*greedy=True",
    ),
    (SamplingParams, {"temperature": -1}, "^temperature must be above 0"),
    (SamplingParams, {"top_k": 1.5}, "^top_k must be an integer"),
    (SamplingParams, {"top_k": 2**40}, "^top_k must fit in 32 bits"),
    (SamplingParams, {"top_k": -1}, "^top_k must be 0"),
    (SamplingParams, {"top_p": 0}, "^top_p must be in"),
    (SamplingParams, {"top_p": float("inf")}, "^top_p must be in"),
    (SamplingParams, {"min_p": 2}, "^min_p must be in"),
    (SamplingParams, {"greedy": 2}, "^greedy must be True or False"),
    (SamplingParams, {"stop": ["a", b""]}, r"^stop\[1\] is empty"),
    (SamplingParams, {"eps": 1}, r"^eps must be in \[0, 1\)"),
    (SamplingParams, {"eps": -0.1}, r"^eps must be in \[0, 1\)"),
    (SamplingParams, {"eps": None}, "^eps must be a number"),
    (SamplingParams, {"exact": 1}, "^exact must be True or False"),
    (SamplingParams, {"exact": None}, "^exact must be True or False"),
    (TokenSamplingParams, {"method": "heal"}, "^method must be one of"),
    (TokenSamplingParams, {"method": 3}, "^method must be one of"),
    (TokenSamplingParams, {"backup": 0}, "^backup must be"),
  ],
)
def test_settings_of_the_samplers_that_make_no_sense(cls, given, message):
  call = arguments.settings
  refused(ValueError, message, call, cls, {"max_bytes": 4} | given)


def test_settings_of_the_samplers():
  given = {
    "max_bytes": np.int32(4),
    "temperature": np.float32(0.5),
    "top_k": 3,
    "greedy": np.False_,
    "stop": "\n",
    "eps": 0,
  }
  found = arguments.settings(SamplingParams, given)
  assert found == SamplingParams(
    max_bytes=4, temperature=0.5, top_k=3, stop=(b"\n",), eps=0.0
  )
  assert [type(getattr(found, name)) for name in given] == [
    int, float, int, bool, tuple, float
  ]  # fmt: skip
  found = arguments.settings(
    TokenSamplingParams, {"max_bytes": 4, "method": "token"}
  )
  assert found == TokenSamplingParams(max_bytes=4, method="token")


# Members of an ensemble ------------------------------------------------------


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    (None, [1, 1]),
    ((1, 2.5), [1, 2.5]),
    ([np.float32(0.5), jnp.float32(2)], [0.5, 2]),
    (np.array([1, 2]), [1, 2]),
    (jnp.array([1.0, 2.0]), [1, 2]),
    ([1e308, 5e-324], [1e308, 5e-324]),
  ],
)
def test_positive_numbers(values, expected):
  found = arguments.positive("weights", values, 2)
  assert found.dtype == np.float64
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ((1.0, 0.0), "^weights must be above 0, not 0.0; leave out a member"),
    ((1.0, -1), "above 0, not -1.0"),
    ((1.0, float("nan")), "above 0, not nan"),
    ((1.0, float("inf")), "^weights must be finite, not inf"),
    ((1, 10**400), "^weights must be finite, not inf"),
    ((1.0,), "^weights must be one for each of the 2 members, not 1"),
    ((1.0, 2.0, 3.0), "2 members, not 3"),
    ((), "2 members, not 0"),
    (1.0, "^weights must be a list of numbers, .* 2 members, not 1.0"),
    ("12", "^weights must be a list of numbers, .* not '12'"),
    (b"12", "^weights must be a list of numbers"),
    (bytearray(b"12"), "^weights must be a list of numbers"),
    ({1.0: 1, 2.0: 2}, "^weights must be a list .* not of type dict"),
    (np.array(1.0), "^weights must be a list .* not 1.0"),
    (("1", "2"), r"^weights\[0\] is '1', and weights must be numbers"),
    ((1.0, None), r"^weights\[1\] is None"),
    ((1.0, True), r"^weights\[1\] is True"),
    ((1.0, 2j), r"^weights\[1\] is 2j"),
    (np.ones((2, 2)), r"^weights\[0\] is of type ndarray"),
  ],
)
@pytest.mark.parametrize("call", ["positive", "log_positive"])
def test_what_is_not_positive(call, values, message):
  rest = {"normalized": True} if call == "log_positive" else {}
  call = getattr(arguments, call)
  refused(ValueError, message, call, "weights", values, 2, **rest)


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    (None, np.log([0.5, 0.5])),
    ((1, 3), np.log([0.25, 0.75])),
    # The sum of these is no float64.
    ((1e308, 1e308), np.log([0.5, 0.5])),
    # The second's share is none.
    ((1e308, 1e-308), [0, -616 * np.log(10)]),
    ((5e-324, 5e-324), np.log([0.5, 0.5])),
  ],
)
def test_logs_of_shares(values, expected):
  found = arguments.log_positive("weights", values, 2, normalized=True)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_logs_that_are_not_normalized():
  found = arguments.log_positive("weights", (1e308, 2), 2, normalized=False)
  np.testing.assert_array_equal(found, np.log([1e308, 2]))


# The module ------------------------------------------------------------------


def test_what_calls_it_is_not_imported():
  tree = ast.parse(pathlib.Path(arguments.__file__).read_text())
  named = {
    f"{getattr(node, 'module', '')}.{alias.name}"
    for node in ast.walk(tree)
    if isinstance(node, ast.Import | ast.ImportFrom)
    for alias in node.names
  }
  assert "byteprob.constraints" in named
  for name in ("sampling", "bytemodel", "lm", "ensemble"):
    assert not any(f"byteprob.{name}" in one for one in named)


def test_settings_are_named_where_help_looks():
  for function, cls in (
    (ByteLM.sample, SamplingParams),
    (ByteLM.sampler, SamplingParams),
    (ByteLM.stream, SamplingParams),
    (ByteLM.sample_tokens, TokenSamplingParams),
    (Session.sample, SamplingParams),
    (Sessions.sample, SamplingParams),
  ):
    found = inspect.signature(function).parameters
    assert {field.name for field in dataclasses.fields(cls)} <= set(found)
    assert "settings" not in found
  assert inspect.signature(ByteLM.sample).parameters["top_p"].default == 1.0
