"""What users ask in a wrong way: one clear sentence, by every method."""

import re

import jax
import pytest
from benches import make_bench

from byteprob import Ensemble
from byteprob.errors import ConstraintError, PromptError

KEY = jax.random.key(0)
ONE_TEXT = r"^contexts is one text where many are taken; give a list, such as"


def models():
  lm = make_bench("gpt2").byte_lm()
  return {"one": lm, "several": Ensemble([lm, lm])}


@pytest.fixture(params=["one", "several"])
def lm(request):
  return models()[request.param]


def refused(kind, message, call, *given, **named):
  """Checks that a call is refused in one sentence."""
  with pytest.raises(kind, match=message) as caught:
    call(*given, **named)
  said = str(caught.value)
  assert "\n" not in said and len(said) < 250
  assert said == said.strip()


@pytest.mark.parametrize("text", ["al", b"al", bytearray(b"al")])
def test_one_text_where_many_are_taken(lm, text):
  refused(PromptError, ONE_TEXT, lm.sample, text, KEY, 4)
  refused(PromptError, ONE_TEXT, lm.sampler, text, KEY, 4)
  refused(PromptError, ONE_TEXT, lm.sessions, text)
  refused(PromptError, ONE_TEXT, lm.next_byte_logprobs_batch, text)
  several = "^texts is one text where many are taken"
  refused(PromptError, several, lm.byte_logprobs_batch, text)
  refused(PromptError, several, lm.next_byte_logprobs_along_batch, text)
  refused(PromptError, ONE_TEXT, lm.byte_logprobs_batch, [b"a"], text)


def test_one_text_where_tokens_are_drawn():
  lm = models()["one"]
  refused(PromptError, ONE_TEXT, lm.sample_tokens, "al", KEY, 4)


@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (0, 1), (2, 0)])
def test_as_many_contexts_as_texts(lm, counts):
  texts, contexts = ([b"a"] * count for count in counts)
  message = (
    f"^give one context for each text: there are {counts[0]} texts and"
    f" {counts[1]} contexts$"
  )
  for call in (lm.byte_logprobs_batch, lm.next_byte_logprobs_along_batch):
    refused(ValueError, message, call, texts, contexts)


@pytest.mark.parametrize("value", [None, 3, 2.5, {"a": 1}, object()])
def test_what_is_no_context(lm, value):
  message = (
    r"^contexts?(\[0\])? is .*, and a context is bytes, a str, or a list"
  )
  for call in (lm.next_byte_logprobs, lm.session):
    refused(PromptError, message, call, value)
  refused(PromptError, message, lm.sample, [value], KEY, 4)
  refused(PromptError, message, lm.stream, value, KEY, 4)
  refused(PromptError, message, lm.byte_logprobs, b"a", value)
  refused(PromptError, r"^texts\[0\] is ", lm.byte_logprobs, value)
  refused(PromptError, r"^texts\[0\] is ", lm.next_byte_logprobs_along, value)


@pytest.mark.parametrize("value", [None, 3, 2.5])
def test_what_is_no_context_of_a_tokenizer(value):
  lm = models()["one"]
  message = ", and a context is bytes, a str, or a list"
  for call in (lm.covers, lm.encode, lm.distributions):
    refused(PromptError, message, call, value)
  refused(PromptError, message, lm.sample_tokens, [value], KEY, 4)


def test_a_stop_string_is_no_list_of_characters(lm):
  """One str is one stop string, whatever its type."""
  key = jax.random.key(5)
  contexts = [b"a", b"l", b"s", b"a'l"]
  if isinstance(lm, Ensemble):
    lm = Ensemble(lm.members)
  free = lm.sample(contexts, key, 30)
  stop = next(s.text[2:4] for s in free if len(s.text) > 5)
  for given in (stop, stop.decode(), [stop], (stop.decode(),)):
    found = lm.sample(contexts, key, 30, stop=given)
    reasons = []
    for whole, part in zip(free, found, strict=True):
      at = whole.text.find(stop)
      wanted = whole.text if at < 0 else whole.text[: at + len(stop)]
      assert part.text == wanted
      reasons.append(part.reason)
    assert "stop" in reasons
  for value, said in (
    (3, r"^stop must be a str, bytes, or a list of these, not 3"),
    ("", "^stop is empty"),
    ([b"a", ""], r"^stop\[1\] is empty"),
    ([3], r"^stop\[0\] is 3, and a stop string is a str or bytes"),
  ):
    refused(ValueError, said, lm.sample, [b"a"], key, 4, stop=value)


def test_what_is_no_key(lm):
  message = (
    r"^key is 7 and no random key; for this seed write jax.random.key\(7"
  )
  refused(ValueError, message, lm.sample, [b"a"], 7, 4)
  refused(ValueError, message, lm.stream, b"a", 7, 4)
  refused(ValueError, "no random key; take one", lm.sample, [b"a"], None, 4)
  old = jax.random.PRNGKey(0)
  refused(ValueError, "not PRNGKey", lm.sample, [b"a"], old, 4)
  many = jax.random.split(KEY, 3)
  refused(ValueError, "one for each text: 1", lm.sample, [b"a"], many, 4)


def test_patterns_of_the_re_module(lm):
  (found,) = lm.sample([b"a"], KEY, 9, constraint=re.compile("(l|s){3}"))
  (wanted,) = lm.sample([b"a"], KEY, 9, constraint="(l|s){3}")
  assert found.text == wanted.text and len(found.text) == 3
  for value, said in (
    (b"ls", "^The constraint is a pattern of bytes; give it as a str"),
    (re.compile(b"ls"), "^The constraint is a pattern of bytes"),
    (re.compile("ls", re.IGNORECASE), "was compiled with flags"),
    (3, "^The constraint is 3; give a regular expression"),
  ):
    refused(ConstraintError, said, lm.sample, [b"a"], KEY, 4, constraint=value)


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"temprature": 2}, "no setting 'temprature'; did you mean 'temperature'"),
    ({"draft": "look_up"}, "no setting 'draft'"),
    ({"ahead": 4}, "no setting 'ahead'"),
    ({"temperature": "hot"}, "^temperature must be a number, not 'hot'"),
    ({"max_bytes": "4"}, "^max_bytes must be an integer, not '4'"),
    ({"max_bytes": 0}, "^max_bytes must be at least 1"),
  ],
)
def test_settings_that_there_are_not(lm, given, said):
  given = {"max_bytes": 4} | given
  refused(ValueError, said, lm.sample, [b"a"], KEY, **given)
  refused(ValueError, said, lm.stream, b"a", KEY, **given)
  # Even if nothing is asked for.
  refused(ValueError, said, lm.sample, [], KEY, **given)
