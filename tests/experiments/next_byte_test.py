"""Host: the main job, as a new user runs it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import byteprob
from experiments import _readable, _tokenwise, next_byte

ROOT = pathlib.Path(__file__).parents[2]
PROMPT = "for i in ra"


def run(*more):
  return subprocess.run(
    [sys.executable, "-m", "experiments.next_byte", *more],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The output and the files of one run."""
  where = tmp_path_factory.mktemp("next_byte")
  done = run(
    "--max_bytes=3",
    "--top=4",
    f"--figure={where / 'out.png'}",
    f"--json={where / 'out.json'}",
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout, where, json.loads((where / "out.json").read_text())


@pytest.fixture(scope="module")
def lm():
  return byteprob.load()


def test_the_numbers_are_the_models(finished, lm):
  text, _, found = finished
  exact = np.exp(np.float64(lm.next_byte_logprobs(PROMPT)))
  np.testing.assert_allclose(found["exact"], exact, rtol=1e-4, atol=1e-7)
  assert abs(sum(found["exact"]) - 1) < 1e-5
  lines = [line.split() for line in text.splitlines()]
  [row] = [line for line in lines if line[:1] == ["n"]]
  assert abs(float(row[1]) - exact[ord("n")]) < 1e-5
  assert abs(float(row[2]) - found["token_prompted"][ord("n")]) < 1e-5
  covers = lm.covers(PROMPT)
  assert found["covers"] == len(covers)
  assert f"covers: {len(covers)}," in text


def test_token_prompting_is_biased_here(finished):
  text, _, found = finished
  exact, token = found["exact"], found["token_prompted"]
  assert exact[ord("n")] > 0.99 and token[ord("n")] < 0.01
  want = sum(p * np.log(p / q) for p, q in zip(exact, token, strict=True) if p)
  assert abs(found["kl_nats"] - want) < 1e-3
  assert "the top byte changes from n to" in text
  assert found["exact_continuation"] == "nge"
  assert not found["token_prompted_continuation"].startswith("n")
  assert "".join(found["likeliest_covers"][0]["tokens"]) == "for␠i␠in␠range"


def test_the_figure_is_an_image(finished):
  image = (finished[1] / "out.png").read_bytes()
  assert image.startswith(b"\x89PNG") and len(image) > 5000


def test_token_prompting_is_a_plain_forward(lm):
  """The law of the tokens after the prompt's, summed by their first byte."""
  from byteprob.models import decoder

  ids = lm.encode(PROMPT)
  config = lm.model.extend.args[0]
  logits = decoder.forward(config, lm.model.params, np.asarray([ids]))[0, -1]
  share = np.exp(np.float64(logits) - np.max(logits))
  share /= share.sum()
  prompted = _tokenwise.TokenPrompted(lm, ids, 8)
  spelling = _tokenwise.spelling(lm.tables)
  want = np.zeros(257)
  for token, probability in enumerate(share):
    if spelled := spelling.get(token):
      want[spelled[0]] += probability
  want[256] = share[np.asarray(lm.tables.end_ids)].sum()
  np.testing.assert_allclose(prompted.next_byte(), want, atol=1e-5)
  assert b"".join(prompted.spelled(ids)) == PROMPT.encode()
  first = prompted.greedy(1)
  assert first == [spelling.get(int(share.argmax()))]


def test_divergence():
  p, q = np.zeros(257), np.zeros(257)
  p[:2], q[0] = 0.5, 0.75
  apart = next_byte.divergence(p, q)
  assert apart.kl == np.inf
  assert apart.total_variation == 0.5
  assert next_byte.divergence(p, p) == next_byte.Divergence(
    kl=0.0, total_variation=0.0
  )
  q[:2] = 0.25, 0.75
  assert abs(next_byte.divergence(p, q).kl - 0.143841) < 1e-6


def test_readable():
  shown = [_readable.byte(b) for b in (0x41, 0x20, 0x0A, 0x00, 0xE9, 256)]
  assert shown == ["A", "␠", r"\n", r"\x00", r"\xE9", "<end>"]
  assert _readable.text("é\\ ".encode() + b"\xc3") == r"é\\␠\xC3"
  assert _readable.tokens([b"a", b" b"]) == "a|␠b"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--model=no-such-model"], "unknown model 'no-such-model'"),
    (["--figure=out.gif"], "must end in one of .png, .pdf, .svg"),
    (["--prompt_file=/no/such/file"], "No such file"),
    (["--prompt=a", "--prompt_file=b"], "not both"),
    (["--validity=never"], "validity"),
    (["--prompt=a\udcff"], "not UTF-8 at byte 1"),
  ],
)
def test_one_clear_line(arguments, message):
  done = run(*arguments)
  assert done.returncode in (1, 2)
  assert message in done.stderr
  assert "Traceback" not in done.stderr
  if message != "validity":
    assert len(done.stderr.strip().splitlines()) == 1
