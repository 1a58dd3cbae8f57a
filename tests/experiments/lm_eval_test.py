"""EleutherAI's harness: its requests against the brute force, and its tasks."""

import json
import random
import subprocess
import sys

import lm_eval
import numpy as np
import pytest
from benches import make_bench
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import byteprob
from byteprob import scoring
from experiments import _harness
from experiments._windows import Windows

EOS = 256
BATCH = 16


class FewSizes(byteprob.ByteLM):
  """Scores as many texts at a time: one size is compiled."""

  def _score(self, queries, **rest):
    filled = [*queries, *queries[-1:] * (-len(queries) % BATCH)]
    return super()._score(filled, **rest)[: len(queries)]


def few_sizes(one, **rest) -> FewSizes:
  return FewSizes(one.model, one.padded, **rest)


def harness(one, **rest) -> _harness.ByteprobLM:
  return _harness.ByteprobLM(few_sizes(one), **rest)


def requests(kind: str, *arguments) -> list[Instance]:
  return [Instance(kind, {}, each, k) for k, each in enumerate(arguments)]


def text_of(one, size: int, seed: int = 0) -> str:
  return "".join(random.Random(seed).choices(one.entry.alphabet, k=size))


def working(one, text: str) -> bytes:
  """What the tokenizer, by itself, works on."""
  (ids,) = one.oracle.encode([text])
  return one.oracle.bytes_of(ids)


def likeliest(one, text: bytes) -> int:
  """The brute force's greedy choice."""
  return int(one.reference.next(text).argmax())


def greedy(one, text: str, size: int) -> bytes:
  """The brute force's greedy bytes after a text."""
  found = working(one, text)
  first = len(found)
  while len(found) < first + size:
    byte = likeliest(one, found)
    if byte == EOS:
      break
    found += bytes([byte])
  return found[first:]


def pairs_of(one) -> list[tuple[str, str]]:
  """Contexts that end anywhere, and greedy and other continuations."""
  found = []
  for seed in range(4):
    text = text_of(one, 5, seed)
    found += [(text[:k], text[k:]) for k in (0, 2, 4)]
    found.append((text, greedy(one, text, 3).decode("utf-8", "ignore")))
    more = found[-1][1][:-1] + one.entry.alphabet[seed % 3]
    found.append((text, more))
  return [*found, (text, "")]


@pytest.mark.parametrize(
  "name", ["gpt2", pytest.param("composed", marks=pytest.mark.slow)]
)
def test_loglikelihood_and_greed_are_the_brute_forces(name):
  one = make_bench(name)
  lm, pairs = harness(one), []
  for context, text in pairs_of(one):
    if working(one, context + text).startswith(working(one, context)):
      pairs.append((context, text))
    else:
      with pytest.raises(byteprob.PromptError, match="begin the text after"):
        lm.loglikelihood(requests("loglikelihood", (context, text)))
  found = lm.loglikelihood(requests("loglikelihood", *pairs))
  kinds = set()
  for (context, text), (value, is_greedy) in zip(pairs, found, strict=True):
    whole, before = working(one, context + text), working(one, context)
    wanted = one.reference.total(whole) - one.reference.total(before)
    assert abs(value - wanted) < 5e-5
    places = range(len(before), len(whole))
    truth = all(likeliest(one, whole[:at]) == whole[at] for at in places)
    assert is_greedy is truth
    kinds.add((is_greedy, len(text) > 1))
  assert kinds >= {(True, True), (False, True)}


def test_the_last_place_that_is_unsure_decides(monkeypatch):
  """Greed, where log-probs alone are not allowed to decide on anything."""
  one = make_bench("gpt2")
  pairs = pairs_of(one)
  lm, asked = harness(one), requests("loglikelihood", *pairs)
  quick = lm.loglikelihood(asked)
  monkeypatch.setattr(_harness, "LIKELIEST", np.inf)
  monkeypatch.setattr(_harness, "UNLIKELY", -np.inf)
  assert lm.loglikelihood(asked) == quick


def tokens_needed(one, text: str) -> int:
  """Places of a context that a text takes, by the brute force."""
  nodes = one.oracle.nodes(working(one, text))
  return len(one.entry.start) + max(map(len, nodes))


def wanted_windows(one, text: str, room: int) -> list[tuple[str, str]]:
  """The harness's rule, by trying every length."""

  def fits(part):
    return tokens_needed(one, part) <= room

  found, at = [], 0
  while at < len(text):
    before = max(at - 1, 0)
    before = max(before - (text[before:at] == " "), 0)
    end = max(k for k in range(at, len(text) + 1) if fits(text[before:k]))
    if end == len(text) and at:
      before = min(k for k in range(at) if fits(text[k:]))
    found.append((text[before:at], text[at:end]))
    at = end
  return found


@pytest.mark.parametrize("name", ["gpt2", "plain", "prefix_space"])
def test_long_texts_are_cut_as_the_harness_does_it(name):
  one = make_bench(name)
  text = text_of(one, 20).strip()
  room = len(one.entry.start) + 7
  wanted = wanted_windows(one, text, room)
  assert len(wanted) > 2
  lm = harness(one, max_length=room)
  windows = lm.windows.rolling(text.encode())
  found = [(a.decode(), b.decode()) for a, b in windows]
  assert found[:-1] == wanted[:-1]
  # The last context is cut where tokens end, others where characters do.
  assert found[-1][1] == wanted[-1][1]
  assert wanted[-1][0].endswith(found[-1][0])
  assert len(wanted[-1][0]) - len(found[-1][0]) <= 4

  def total(text):
    return one.reference.total(working(one, text))

  logprob = sum(total(before + part) - total(before) for before, part in found)
  asked = requests("loglikelihood_rolling", (text[0],), (text,), ("",))
  short, long, empty = lm.loglikelihood_rolling(asked)
  assert abs(long - logprob) < 1e-4
  assert abs(short - total(text[0])) < 2e-5
  assert empty == 0.0


def test_whole_texts_are_scored_in_windows_as_the_library_does_it():
  one = make_bench("gpt2")
  text = text_of(one, 20).strip()
  lm = harness(one, window=12, stride=6)
  (found,) = lm.loglikelihood_rolling(
    requests("loglikelihood_rolling", (text,))
  )
  wanted = lm.lm.byte_logprobs(text, window=12, stride=6).sum()
  assert abs(found - wanted) < 1e-4
  assert abs(found - lm.lm.byte_logprobs(text).sum()) > 1e-3
  assert harness(one, window=12).stride == 6
  with pytest.raises(ValueError, match="give window"):
    harness(one, stride=6)


def test_a_long_context_loses_its_beginning():
  one = make_bench("gpt2")
  text, room = text_of(one, 30), len(one.entry.start) + 7
  lm = harness(one, max_length=room)
  context = lm._fitted(text[:-3], text[-3:])[0].decode()
  assert text[:-3].endswith(context)
  assert tokens_needed(one, context + text[-3:]) <= room
  longer = text[len(text) - 3 - len(context) - 4 :]
  assert tokens_needed(one, longer) > room
  ((value, _),) = lm.loglikelihood(
    requests("loglikelihood", (text[:-3], text[-3:]))
  )
  total = one.reference.total
  wanted = total((context + text[-3:]).encode()) - total(context.encode())
  assert abs(value - wanted) < 5e-5
  with pytest.raises(byteprob.PromptError, match="max_length"):
    lm.loglikelihood(requests("loglikelihood", ("a", text)))
  # Tokens that are to be drawn take room, too.
  spare = tokens_needed(one, lm._context(text, 3).decode()) + 3
  assert room - 2 <= spare <= room
  with pytest.raises(byteprob.PromptError, match="max_gen_toks"):
    lm._context(text, 50)
  with pytest.raises(byteprob.PromptError, match="max_length"):
    harness(one, max_length=1).windows.rolling(text.encode())


def test_what_surely_fits_is_not_read(monkeypatch):
  one = make_bench("gpt2")
  windows = Windows(lms=[few_sizes(one)])

  def nodes(*_):
    raise AssertionError

  monkeypatch.setattr(scoring, "nodes", nodes)
  assert windows.fits(b"a" * 4000, 50)
  with pytest.raises(AssertionError):
    windows.fits(b"a" * 4000, 200)


UNTIL = "\n"
DRAWN = {"until": [UNTIL], "max_gen_toks": 5, "do_sample": True}
"""One stop string, and one size, are compiled."""


def test_texts_are_drawn_up_to_where_the_task_says():
  one = make_bench("gpt2")
  lm = harness(one, batch_size=2)
  asked = {"until": [UNTIL], "max_gen_toks": 5}
  texts = [text_of(one, 6, seed) for seed in range(4)]
  found = lm.generate_until(
    requests("generate_until", *((text, asked) for text in texts))
  )
  stopped = 0
  for text, drawn in zip(texts, found, strict=True):
    wanted = greedy(one, text, 20).decode()
    assert drawn == wanted.split(UNTIL)[0]
    stopped += UNTIL in wanted
  assert stopped
  assert any(found)


def test_what_is_drawn_does_not_depend_on_what_else_is_asked():
  one = make_bench("gpt2")
  lm = harness(one)
  asked = [(context, DRAWN) for context in ("a'l", "a'l", "s", "s")]
  found = lm.generate_until(requests("generate_until", *asked))
  assert found[0] != found[1] or found[2] != found[3]
  again = lm.generate_until(requests("generate_until", *asked[2:], *asked[:2]))
  assert again == found[2:] + found[:2]
  other = harness(one, seed=1).generate_until(
    requests("generate_until", *asked)
  )
  assert other != found


def test_settings_are_the_harness_s_own():
  lm = harness(make_bench("gpt2"), max_gen_toks=7)
  assert lm._settings({"until": "x"}) == {
    "until": ["x"],
    "max_gen_toks": 7,
    "greedy": True,
  }
  assert lm._settings(
    {"until": ["x", ""], "temperature": 0.5, "top_p": 0.9, "num_beams": 1}
  ) == {
    "until": ["x"],
    "max_gen_toks": 7,
    "greedy": False,
    "temperature": 0.5,
    "top_p": 0.9,
  }
  drawn = {"do_sample": True, "max_new_tokens": 3}
  assert lm._settings(drawn)["max_gen_toks"] == 3
  assert not lm._settings(drawn)["greedy"]
  for quiet in ({"do_sample": False}, {"do_sample": True}):
    settings = lm._settings({**quiet, "temperature": 0.0, "top_k": 3})
    assert settings["greedy"] and "top_k" not in settings
  with pytest.raises(byteprob.ByteprobError, match="num_beams=4"):
    lm._settings({"num_beams": 4})


def write_task(directory, name: str, rows: list[dict], config: str) -> None:
  """A task of one's own, with its data in a local file."""
  data = directory / f"{name}.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  (directory / f"{name}.yaml").write_text(
    f"task: {name}\n"
    "dataset_path: json\n"
    f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
    "test_split: test\n"
    f"{config}"
  )


CHOICE = """output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""

DRAW = """output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 5
metric_list:
  - metric: exact_match
"""

ROLL = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""


@pytest.fixture
def offline(monkeypatch, tmp_path):
  """The harness's data sets are made from local files alone."""
  import datasets

  monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  return tmp_path


def test_local_tasks_have_the_accuracy_they_were_made_for(offline):
  one = make_bench("gpt2")
  total = one.reference.total
  texts = [text_of(one, 6, seed) for seed in range(4)]
  choices, lines = [], []
  for k, text in enumerate(texts):
    ends = ["a", "l", "s"]
    values = [total((text + end).encode()) for end in ends]
    # One of four is made wrong, so that it must come out wrong.
    best = int(np.argmin(values) if k == 0 else np.argmax(values))
    choices.append({"text": text, "choices": ends, "answer": best})
    line = greedy(one, text, 20).decode().split(UNTIL)[0]
    lines.append({"text": text, "answer": line + "x" * (k < 2)})
  write_task(offline, "choice", choices, CHOICE)
  write_task(offline, "draw", lines, DRAW)
  write_task(offline, "roll", [{"text": text} for text in texts], ROLL)
  found = lm_eval.simple_evaluate(
    harness(one, batch_size=2),
    tasks=["choice", "draw", "roll"],
    task_manager=TaskManager(include_path=offline, include_defaults=False),
    bootstrap_iters=0,
  )["results"]
  assert found["choice"]["acc,none"] == 3 / 4
  assert found["draw"]["exact_match,none"] == 2 / 4
  nats = -sum(total(text.encode()) for text in texts)
  size = sum(len(text.encode()) for text in texts)
  bits = found["roll"]["bits_per_byte,none"]
  np.testing.assert_allclose(bits, nats / size / np.log(2), rtol=1e-5)


def test_answers_are_kept(tmp_path):
  """With the harness's own cache, a run that was stopped is not done again."""
  one = make_bench("gpt2")
  asked = requests("loglikelihood", ("a", "s"), ("s", "la"))
  rolled = requests("loglikelihood_rolling", ("as",))
  drawn = requests("generate_until", ("a", {**DRAWN, "do_sample": False}))

  def answers(model):
    cached = lm_eval.api.model.CachingLM(model, str(tmp_path / "answers.db"))
    return (
      cached.loglikelihood(asked),
      cached.loglikelihood_rolling(rolled),
      cached.generate_until(drawn * 2),
    )

  first = answers(harness(one))
  broken = harness(one)
  broken.lm = None
  found = answers(broken)
  assert [list(map(tuple, found[0])), *found[1:]] == list(first)


def test_the_harness_makes_the_model_of_its_arguments(monkeypatch):
  asked = []
  lm = few_sizes(make_bench("gpt2"))

  def load(name, **rest):
    asked.append((name, rest))
    return lm

  monkeypatch.setattr(byteprob, "load", load)
  made = get_model("byteprob").create_from_arg_string(
    "model=stdlib-spm,dtype=bfloat16,max_length=100", {"batch_size": "4"}
  )
  assert asked == [("stdlib-spm", {"dtype": "bfloat16", "validity": "exact"})]
  assert made.lm is lm
  assert (made.batch_size, made.windows.max_length) == (4, 100)


def test_several_names_make_an_ensemble(monkeypatch):
  lm = few_sizes(make_bench("gpt2"))
  monkeypatch.setattr(byteprob, "load", lambda name, **_: lm)
  made = get_model("byteprob").create_from_arg_string(
    "model=one+other,strategy=product,weights=2+1", {}
  )
  assert made.lm.strategy == "product"
  np.testing.assert_allclose(made.lm.weights, [2 / 3, 1 / 3])
  assert made.windows.lms == (lm, lm)
  # A product of one model with itself is that model.
  asked = requests("loglikelihood", ("a", "s"), ("s", "la"))
  found, wanted = (
    made.loglikelihood(asked),
    harness(make_bench("gpt2")).loglikelihood(asked),
  )
  for (value, greedy), (truth, is_greedy) in zip(found, wanted, strict=True):
    assert abs(value - truth) < 1e-4 and greedy is is_greedy
  with pytest.raises(ValueError, match="numbers with"):
    _harness.load("one+other", "mixture", "2+x", "float32", "exact")


WITHOUT = """
import runpy, sys
sys.modules["lm_eval"] = None
runpy.run_module("experiments.lm_eval", run_name="__main__")
"""


def script(*flags: str, without: bool = False) -> subprocess.CompletedProcess:
  words = ["-c", WITHOUT] if without else ["-m", "experiments.lm_eval"]
  return subprocess.run(
    [sys.executable, *words, *flags],
    capture_output=True,
    text=True,
    timeout=900,
  )


LOCAL = "--include_path=configs/lm_eval"


@pytest.mark.parametrize(
  ("flags", "without", "message"),
  [
    ((LOCAL,), True, 'pip install -e ".[eval]"'),
    (("--include_path=no/such/place",), False, "no/such/place"),
    ((LOCAL, "--limit=0"), False, "--limit"),
    ((LOCAL, "--model=nothing-like-this"), False, "nothing-like-this"),
    pytest.param(
      (LOCAL, "--tasks=stdlib_choices"),
      False,
      "'stdlib_choices'; there is stdlib_choice",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_mistake_gets_one_line(tmp_path, flags, without, message):
  output = tmp_path / "out.json"
  done = script(
    "--tasks=stdlib_choice", f"--output={output}", *flags, without=without
  )
  assert done.returncode
  assert message in done.stderr
  assert "Traceback" not in done.stderr
  assert done.stderr.splitlines()[-1].startswith("error: ")
  assert not output.exists()


@pytest.mark.slow
def test_the_script_writes_what_it_prints(tmp_path):
  output = tmp_path / "out.json"
  done = script(
    "--tasks=stdlib_choice", LOCAL, f"--output={output}", "--log_samples"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(output.read_text())
  assert found["results"]["stdlib_choice"]["acc,none"] == 1.0
  assert "stdlib_choice" in done.stdout
  lm = byteprob.load()
  for sample in found["samples"]["stdlib_choice"]:
    asked = sample["arguments"]
    wanted = lm.byte_logprobs_batch(
      [text for _, text in asked], [context for context, _ in asked]
    )
    for (value, _), row in zip(sample["filtered_resps"], wanted, strict=True):
      assert abs(float(value) - row.sum()) < 1e-4
