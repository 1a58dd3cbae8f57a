"""Programs: what is asked is data; only sizes are compiled for."""

import contextlib

import jax
import numpy as np
from benches import make_bench

from byteprob.engine.config import EngineConfig
from byteprob.engine.state import init

EVENT = "/jax/core/compile/backend_compile_duration"

_counts: list[list[str]] = []


def _count(event, *_, **__):
  if event == EVENT:
    for one in _counts:
      one.append(event)


jax.monitoring.register_event_duration_secs_listener(_count)


@contextlib.contextmanager
def compiled():
  """The programs that are compiled meanwhile."""
  found: list[str] = []
  _counts.append(found)
  try:
    yield found
  finally:
    _counts.remove(found)


def requests():
  """What may be asked for without anything being compiled."""
  yield b"a'l", 20, {}
  yield b"", 1, {}
  yield b"a'll s\n\ns", 33, {}
  yield b"l", 20, {"temperature": 0.7}
  yield b"l", 20, {"top_k": 3, "top_p": 0.9, "min_p": 0.01}
  yield b"l", 20, {"greedy": True}
  yield b"l", 20, {"exact": True}
  yield b"l", 20, {"eps": 0.01}
  yield b"l", 20, {"stop": "\n"}
  yield b"l", 20, {"stop": [b"a's'l", "ss", b"\n\n"]}
  yield b"l", 20, {"constraint": "[als' ]*"}
  yield b"l", 20, {"constraint": "[ls]{3}"}
  yield "s" * 30, 50, {}


def test_what_counts_programs_counts_them():
  with compiled() as found:
    jax.jit(lambda x: x * 3.25 + 1.5)(np.arange(7.0))
  assert len(found) == 1


def test_what_is_asked_is_data():
  lm, key = make_bench("gpt2").byte_lm(), jax.random.key(0)
  keys = [jax.random.key(k) for k in range(20)]
  (first,) = lm.sample([b"a"], key, 4)
  assert first.logprobs.size
  for own, (context, size, how) in zip(keys, requests(), strict=False):
    with compiled() as found:
      (sample,) = lm.sample([context], own, size, **how)
      again = list(lm.stream(context, own, size, **how))
    assert not found, (context, size, how)
    assert b"".join(again) == sample.text


def test_a_session_compiles_nothing_anew():
  lm, key = make_bench("gpt2").byte_lm(), jax.random.key(0)
  one = lm.session(b"a")
  one.push(b"l")
  one.fork().push(b"s")
  assert one.sample(key, 4).text is not None
  assert np.isfinite(one.logprobs[ord("a")])
  with compiled() as found:
    one = lm.session(b"a'l")
    for piece in (b"l", b" s\n", b"\nsa'l a"):
      other = one.fork()
      one.push(piece)
      assert one.logprobs.shape == (257,)
    other.push(b"s")
    one.sample(key, 9, temperature=0.8, stop="\n")
  assert not found


def test_texts_of_many_lengths_share_programs():
  lm = make_bench("gpt2").byte_lm()
  text = b"a'll s\n\nsa'l as"
  lm.byte_logprobs(text)
  lm.byte_logprobs(text[4:], text[:4])
  with compiled() as found:
    for size in range(1, len(text)):
      lm.byte_logprobs(text[:size])
      lm.byte_logprobs(text[size:], text[:size])
      lm.next_byte_logprobs(text[:size])
  assert not found


def test_a_larger_bucket_takes_few_programs():
  lm, key = make_bench("gpt2").byte_lm(), jax.random.key(0)
  lm.sample([b"a"], key, 4)
  lm.sample([b"a" * 40], key, 4)
  for size in (600, 700, 400):
    with compiled() as found:
      lm.sample([b"a" * size], key, 4)
    assert len(found) <= (4 if size == 600 else 0)


def test_as_many_texts_as_a_power_of_two_share_programs():
  lm, key = make_bench("gpt2").byte_lm(), jax.random.key(0)
  lm.sample([b"a"] * 4, key, 4)
  keys = jax.random.split(key, 3)
  with compiled() as found:
    lm.sample([b"a", b"", b"l"], keys, 4)
    lm.sample([b"s", b"l", b"l"], keys, 9)
  assert not found


def test_a_new_state_is_of_the_types_that_the_loop_returns():
  # Weak types would have the loop compiled again for the second call.
  one = make_bench("gpt2")
  size = EngineConfig.of(one.model, one.padded, capacity=32)
  start = np.array([one.padded.start], np.int32)
  root = np.zeros(1, np.int32)
  member = init(size, one.model.init_cache, one.padded, start, root)
  assert not [leaf for leaf in jax.tree.leaves(member) if leaf.weak_type]
