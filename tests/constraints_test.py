"""Automata of regular expressions, against Python's own `re`."""

import functools
import itertools
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteprob import constraints
from byteprob.constraints import Constraint
from byteprob.errors import ConstraintError

EOS = 256
ALPHABET = "abé日🙂"

compiled = functools.lru_cache(maxsize=None)(constraints.compile_regex)


class Reader:
  """A constraint, read on the host."""

  def __init__(self, constraint: Constraint):
    self.next = np.asarray(constraint.next)
    self.final = np.asarray(constraint.final)

  def state(self, text: bytes) -> int:
    """The state after a text, -1 if a byte of it was forbidden."""
    state = 0
    for byte in text:
      state = int(self.next[state, byte])
      if state < 0:
        break
    return state

  def matches(self, text: bytes) -> bool:
    return bool(self.final[self.state(text)])


@functools.cache
def reader(pattern: str) -> Reader:
  return Reader(compiled(pattern))


def texts(alphabet: str, most: int):
  """All texts over an alphabet, the short ones first."""
  for size in range(most + 1):
    for parts in itertools.product(alphabet, repeat=size):
      yield "".join(parts)


PATTERNS = [
  "",
  "a|ab",  # the one preferred is a beginning of the other
  "ab|a|",
  "a*?",
  "(a|ab)(b|ba)??",
  "a{2,3}(b{0,2}){2}",
  "(?:a{2}|b){1,}é?",
  "[é-日]+",
  "[^a]b*",
  "[^aé]{2}",
  ".*é.",
  "(a|.)*b..",
  "🙂(日|é|🙂)*日",
  "(?P<name>a+)(?:b)",
  "(?i)ÉA+",
  "^ab*$",
  "(?i)^É$",
  "[^^]|[]a^]b",
  r"\x61\u00e9+",
  r"(?s).b|\.\[\^\)\]",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_matches_what_python_matches(pattern):
  one, count = reader(pattern), 0
  for text in texts(ALPHABET + "É^.", 4):
    wanted = re.fullmatch(pattern, text) is not None
    assert one.matches(text.encode()) == wanted, text
    count += wanted
  assert count


def expressions():
  """Regular expressions over the alphabet; what they say, and nothing else."""
  atoms = st.one_of(
    st.sampled_from([*ALPHABET, "[a-é]", "[^b🙂]", "[日a]", ".", ""]),
  )

  def grow(inner):
    return st.one_of(
      st.lists(inner, min_size=2, max_size=3).map("".join),
      st.lists(inner, min_size=2, max_size=3).map(
        lambda parts: f"(?:{'|'.join(parts)})"
      ),
      st.tuples(
        inner,
        st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"]),
        st.sampled_from(["", "?"]),
      ).map(lambda parts: f"(?:{parts[0]}){parts[1]}{parts[2]}"),
    )

  return st.recursive(atoms, grow, max_leaves=7)


@settings(max_examples=60, deadline=None)
@given(expressions(), st.lists(st.text(ALPHABET, max_size=7), max_size=20))
def test_random_expressions_match_what_python_matches(pattern, more):
  one = Reader(constraints.compile_regex(pattern))
  for text in [*more, *texts(ALPHABET, 3)]:
    wanted = re.fullmatch(pattern, text) is not None
    assert one.matches(text.encode()) == wanted, text


@pytest.mark.parametrize(
  "pattern",
  [
    "ab|éb*a",
    "(ab)*",
    "a{3}|b",
    "(日|é)(🙂b)?",
    "(?:ab*[^a[^a]]|[日é]a)",  # once in the b's, nothing leads to an end
  ],
)
def test_beginnings_live_just_if_something_completes_them(pattern):
  one = reader(pattern)
  # Python has no classes in classes; what is in this one is empty anyhow.
  python = pattern.replace("[^a[^a]]", r"[^\s\S]")
  whole = [
    text.encode() for text in texts(ALPHABET, 5) if re.fullmatch(python, text)
  ]
  begun = {text[:size] for text in whole for size in range(len(text) + 1)}
  tails = [bytes(tail) for k in range(2) for tail in byte_strings(k)]
  # All that begins with four bytes is complete within five characters.
  short = {text for text in begun if len(text) < 5}
  assert len(short) > 3
  for text in short:
    for tail in tails:
      longer = text + tail
      if len(longer) < 5:
        assert (one.state(longer) >= 0) == (longer in begun), longer


def byte_strings(size):
  return itertools.product(range(256), repeat=size)


@pytest.mark.parametrize(
  "pattern", [r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", r"\w+|.", "a{9}"]
)
def test_every_state_leads_to_an_end(pattern):
  one = reader(pattern)
  able = one.final.copy()
  for _ in range(len(able)):
    able |= ((one.next >= 0) & able[one.next]).any(1)
  met, queue = {0}, [0]
  for state in queue:
    after = set(one.next[state][one.next[state] >= 0].tolist()) - met
    met |= after
    queue += sorted(after)
  assert able[queue].all() and len(met) == able.sum()


ASSIGNED = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


@pytest.mark.parametrize(
  "pattern", [".", "(?s).", "[^é]", "[é-ü]", "[^\x80-\U0010fffe]", r"[\x00-ࠀ]"]
)
def test_classes_hold_their_characters_and_no_other_bytes(pattern):
  one = reader(pattern)
  inside = re.compile(pattern)
  held = [c for c in map(chr, ASSIGNED) if inside.fullmatch(c)]
  assert held and all(one.matches(c.encode()) for c in held)
  # As many byte strings as characters: so there are no others.
  ways, found = np.zeros(len(one.final), np.int64), 0
  ways[0] = 1
  for _ in range(5):
    found += ways[one.final].sum()
    state, byte = np.nonzero(one.next >= 0)
    after = np.zeros_like(ways)
    np.add.at(after, one.next[state, byte], ways[state])
    ways = after
  assert found == len(held) and not ways.any()


@pytest.mark.parametrize(
  ("pattern", "inside", "outside"),
  [
    (r"\d", "05٣३", "aé²Ⅷ "),
    (r"\w", "aZ_9é日ü٣", " -!€🙂"),
    (r"\s", " \t\n\u3000", "a_"),
    (r"\p{Lu}", "AÉΩ", "aé日"),
  ],
)
def test_named_classes_are_those_of_unicode(pattern, inside, outside):
  one = reader(pattern)
  assert all(one.matches(c.encode()) for c in inside)
  assert not any(one.matches(c.encode()) for c in outside)


def test_dates():
  one = reader(constraints.DATE)
  count = 0
  for month, day in itertools.product(range(20), range(40)):
    wanted = 1 <= month <= 12 and 1 <= day <= 31
    text = f"2024-{month:02}-{day:02}".encode()
    assert one.matches(text) == wanted
    count += wanted
    # A byte that no day can follow is refused where it stands.
    assert (one.state(text[:6]) >= 0) == (month < 20)
    assert (one.state(text[:7]) >= 0) == (1 <= month <= 12)
  assert count == 12 * 31
  assert not one.matches("２024-01-01".encode()) and not one.matches(
    b"24-01-01"
  )


def test_json_numbers():
  one = reader(constraints.JSON_NUMBER)
  # RFC 8259: no plus, no leading zero, no bare dot.
  for text in texts("-+01.e", 5):
    sign, rest = text[:1] == "-", text.removeprefix("-")
    mantissa, *exponent = rest.split("e", 1)
    whole, *part = mantissa.split(".", 1)
    wanted = (
      sign + len(rest) == len(text)
      and whole.isdigit()
      and (whole == "0" or whole[0] != "0")
      and all(digits.isdigit() for digits in part)
      and all(
        digits.removeprefix("-" if digits[:1] == "-" else "+").isdigit()
        for digits in exponent
      )
    )
    assert one.matches(text.encode()) == wanted, text
  assert one.matches(b"-12.50E+07") and not one.matches("١".encode())


def test_identifiers():
  one = reader(constraints.IDENTIFIER)
  for text in texts("aZ_0-é ", 4):
    assert one.matches(text.encode()) == (
      text.isidentifier() and text.isascii()
    ), text


def test_free_allows_everything():
  free = Constraint.free()
  assert free.next.shape == (64, 256) and free.next.dtype == jnp.int32
  assert constraints.allowed(free, jnp.int32(0)).all()
  for symbol in range(257):
    assert constraints.step(free, jnp.int32(0), jnp.int32(symbol)) == 0
  assert not constraints.complete(free, jnp.int32(0))


def test_steps_on_the_device():
  constraint = compiled("ab?|é")
  one = Reader(constraint)
  allowed = jax.jit(constraints.allowed)
  step = jax.jit(constraints.step)
  state = jnp.int32(0)
  for text, follows in [
    (b"", b"a\xc3"), (b"a", b"b"), (b"ab", b""), (b"\xc3", b"\xa9"),
    (b"\xc3\xa9", b""), (b"ac", b""), (b"acb", b""),
  ]:  # fmt: skip
    state = jnp.int32(0)
    for byte in text:
      state = step(constraint, state, jnp.int32(byte))
    assert state.dtype == jnp.int32 and state == one.state(text)
    mask = allowed(constraint, state)
    assert mask.shape == (257,)
    assert bytes(np.flatnonzero(mask[:256]).tolist()) == follows
    ends = text in (b"a", b"ab", "é".encode())
    assert mask[EOS] == ends
    assert constraints.complete(constraint, state) == (ends and not follows)
    # The end keeps the state, whatever it is.
    assert step(constraint, state, jnp.int32(EOS)) == state


def test_many_states_at_once():
  constraint = compiled("(ab)*")
  states = jnp.array([0, -1, 1], jnp.int32)
  masks = jax.vmap(constraints.allowed, (None, 0))(constraint, states)
  assert np.flatnonzero(masks[0]).tolist() == [ord("a"), EOS]
  assert not masks[1].any()
  assert np.flatnonzero(masks[2]).tolist() == [ord("b")]
  after = jax.vmap(constraints.step, (None, 0, 0))(
    constraint, states, jnp.array([ord("a"), ord("a"), EOS])
  )
  assert after.tolist() == [1, -1, 1]
  # And many constraints.
  both = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), constraint, Constraint.free()
  )
  masks = jax.vmap(constraints.allowed)(both, jnp.zeros(2, jnp.int32))
  assert masks.sum(1).tolist() == [2, 257]


@pytest.mark.parametrize(
  ("pattern", "size"), [("a{62}", 64), ("a{63}", 512), ("", 64)]
)
def test_sizes_are_few_and_leave_a_dead_state(pattern, size):
  constraint = compiled(pattern)
  assert len(constraint.next) == len(constraint.final) == size
  assert (constraint.next[-1] == -1).all() and not constraint.final[-1]


def test_like_sizes_share_what_is_compiled():
  step = jax.jit(lambda *args: constraints.step(*args))
  for pattern in ("a", "b+", "[é-ü]{3}"):
    step(compiled(pattern), jnp.int32(0), jnp.int32(97))
  step(Constraint.free(), jnp.int32(0), jnp.int32(97))
  assert step._cache_size() == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("a(?=b)b", r"a look-around, '\(\?=', at character 1.*write out"),
    ("^(?<!a)b", r"a look-around, '\(\?<!', at character 1"),
    (r"(a)\1", r"a back-reference, .*, at character 3"),
    ("(?P<n>a)(?P=n)", "a back-reference"),
    ("(?>a)b", "an atomic"),
    (r"a\b", "a word boundary"),
    ("a|^b", r"an anchor, '\^', at character 2: .*leave it out"),
    (r"\Aa", "an anchor"),
    ("(?x)a # b", "verbose mode"),
    ("a)(b", r"unmatched '\)'"),
    ("(a", r"cannot be read; .*docs.rs/regex.*missing \), unterminated"),
    ("a{3,2}", "cannot be read; .* min repeat greater than max repeat"),
    ("[b-a]", "cannot be read; .* bad character range"),
    (r"a\Z", "cannot be read; .*docs.rs/regex"),
    ("[[a]", "cannot be read; .*docs.rs/regex"),
    ("(" * 3000 + ")" * 3000, "cannot be read"),
    (r"[^\s\S]", "matches nothing"),
    (r"a[^\s\S]|b", "matches nothing"),
    ("a$b", "matches nothing"),
    (r"ab*[^\s\S]", "matches no text"),
    ("a\ud800", "a lone surrogate"),
    ("a{40000}", r"too large: it has 40001 states, 32767 are allowed"),
  ],
)
def test_mistakes_are_named(pattern, message):
  with pytest.raises(ConstraintError, match=message) as found:
    constraints.compile_regex(pattern)
  assert "\n" not in str(found.value)
  assert repr(pattern) in str(found.value)


@pytest.mark.parametrize(
  "pattern", [r"\^[$^)(]\(\?=\\b\$", "[a[^b)]^]", "[]^)]", r"[\]^]"]
)
def test_what_is_only_a_character_is_no_mistake(pattern):
  # Nothing is asserted but that it is read.
  assert reader(pattern).final.any()


def test_what_would_take_forever_is_stopped(monkeypatch):
  monkeypatch.setattr(constraints, "MAX_SECONDS", 0.5)
  with pytest.raises(ConstraintError, match=r"not made within 0\.5 seconds"):
    constraints.compile_regex("[ab]*a[ab]{40}")


def test_the_length_of_a_match_costs_little():
  # A search from every newline would have some 2 ** 300 states.
  one = reader("[^y]{300}")
  assert one.matches(b"\n" * 300) and not one.matches(b"\n" * 301)
  assert len(one.final) <= 4096


def test_the_other_process_imports_what_this_one_would(monkeypatch, tmp_path):
  (tmp_path / "outlines_core.py").write_text("raise RuntimeError('found')")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(RuntimeError, match="found"):
    constraints.compile_regex("a")


def test_what_goes_wrong_in_the_other_process_is_told(monkeypatch):
  def ended(code):
    def run(command, **rest):
      return subprocess.CompletedProcess(command, code, b"", b"no library")

    return run

  # Stopped by the system, which does that when memory runs out.
  monkeypatch.setattr(subprocess, "run", ended(-9))
  with pytest.raises(ConstraintError, match="too much memory"):
    constraints.compile_regex("a")
  monkeypatch.setattr(subprocess, "run", ended(1))
  with pytest.raises(RuntimeError, match="no library"):
    constraints.compile_regex("a")
