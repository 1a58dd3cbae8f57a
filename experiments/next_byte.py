"""Host: the exact next byte of a prompt beside the token-prompted one.

  python -m experiments.next_byte --prompt='for i in ra' --figure=out.png

Prints both distributions and how far they are apart, the covers of the
prompt (all the ways in which tokens can reach past its end), and how the text
goes on greedily from each. `--json=` keeps all that with the command.
"""

import dataclasses
import math
import pathlib
import sys
import time
import warnings
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob import store
from experiments import _prompts, _readable, _runtime, _tokenwise

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/next_byte.py", "What to do.", lock_config=True
)
_MODEL = flags.DEFINE_string("model", None, "A model's name or path.")
_FIGURE = flags.DEFINE_string(
  "figure", None, "Draw both distributions to this .png, .pdf or .svg file."
)
_JSON = flags.DEFINE_string("json", None, "Write all that is found here.")
_MAX_BYTES = flags.DEFINE_integer(
  "max_bytes", None, "Bytes of the greedy continuations.", lower_bound=0
)
_TOP = flags.DEFINE_integer(
  "top", None, "Bytes and covers to show.", lower_bound=1
)
_VALIDITY = flags.DEFINE_enum(
  "validity", None, ["exact", "trust_model"], "See byteprob.load."
)
_UTF8 = flags.DEFINE_enum("utf8", None, ["strict", "any"], "See byteprob.load.")
_DTYPE = flags.DEFINE_enum(
  "dtype", None, ["float32", "bfloat16"], "Of the model's parameters."
)

FIGURES = (".png", ".pdf", ".svg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
  """How far a distribution `q` is from a distribution `p`.

  Attributes:
    kl: KL(p || q) in nats; infinite where q excludes what p allows.
    total_variation: half the sum of absolute differences, what q gives to
      nothing in p's alphabet included.
  """

  kl: float
  total_variation: float


def divergence(p: np.ndarray, q: np.ndarray) -> Divergence:
  """Compares `float64[257]` probabilities; `q` may add up to less than 1."""
  some = p > 0
  with np.errstate(divide="ignore"):
    kl = float(np.sum(p[some] * (np.log(p[some]) - np.log(q[some]))))
  rest = max(0.0, 1 - float(q.sum()))
  return Divergence(
    kl=max(kl, 0.0), total_variation=0.5 * (float(abs(p - q).sum()) + rest)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """Results for one prompt, exact and token-prompted.

  Attributes:
    prompt: its bytes.
    model: the model's name.
    exact: `float64[257]` probabilities of the next byte; 256: the end.
    token: the same, token-prompted; None where `why_not` says why there is
      none.
    tokens: the prompt's own tokens.
    covers: `(tokens, posterior probability)`, the most probable first.
    exact_text: the greedy continuation, byte by byte.
    token_text: the greedy continuation, token by token.
    why_not: why the prompt has no tokens.
  """

  prompt: bytes
  model: str
  exact: np.ndarray
  token: np.ndarray | None
  tokens: list[bytes]
  covers: list[tuple[list[bytes], float]]
  exact_text: bytes
  token_text: bytes
  why_not: str

  @property
  def divergence(self) -> Divergence | None:
    """Of the token-prompted distribution from the exact one."""
    return None if self.token is None else divergence(self.exact, self.token)


def find(
  lm: byteprob.ByteLM, model: str, prompt: bytes, max_bytes: int
) -> Found:
  """Asks a model both ways.

  Raises:
    PromptError: the prompt cannot be expressed in the model's tokens.
  """
  exact = np.exp(np.asarray(lm.next_byte_logprobs(prompt), np.float64))
  why_not, token, tokens, token_text = "", None, [], b""
  try:
    ids = lm.encode(prompt)
  except byteprob.PromptError as error:
    why_not = str(error)
  else:
    prompted = _tokenwise.TokenPrompted(lm, ids, max_bytes)
    token = prompted.next_byte()
    tokens = prompted.spelled(ids)
    token_text = b"".join(prompted.greedy(max_bytes))
  spelling = _tokenwise.spelling(lm.tables)
  covers = lm.covers(prompt)
  logs = np.array([value for _, value in covers])
  posterior = np.exp(logs - np.logaddexp.reduce(logs))
  shown = [
    ([spelling[token] for token in ids if token in spelling], float(share))
    for (ids, _), share in zip(covers[:1000], posterior, strict=False)
  ]
  shown += [([], float(share)) for share in posterior[1000:]]
  return Found(
    prompt=prompt,
    model=model,
    exact=exact,
    token=token,
    tokens=tokens,
    covers=shown,
    exact_text=greedy(lm, prompt, max_bytes, exact),
    token_text=token_text,
    why_not=why_not,
  )


def greedy(
  lm: byteprob.ByteLM, prompt: bytes, max_bytes: int, first: np.ndarray
) -> bytes:
  """The most probable byte again and again, until the text's end.

  Each asks for the whole context anew.

  Args:
    lm: the model.
    prompt: what comes before.
    max_bytes: how many bytes at most.
    first: `[257]` the distribution after the prompt.
  """
  text, now = b"", first
  with _runtime.progress(max_bytes, unit="byte") as bar:
    while len(text) < max_bytes and (best := int(now.argmax())) < 256:
      text += bytes([best])
      bar.advance("")
      if len(text) < max_bytes:
        now = lm.next_byte_logprobs(prompt + text)
  return text


def report(found: Found, top: int) -> str:
  """Everything as text."""
  lines = [f"model    {found.model}"]
  lines.append(f"prompt   {_readable.text(found.prompt)}")
  if found.token is not None:
    lines.append(f"tokens   {_readable.tokens(found.tokens)}")
  lines += ["", "next byte       exact  token-prompted"]
  for value in shown_bytes(found, top):
    line = f"{_readable.byte(value):9}  {found.exact[value]:10.6f}"
    if found.token is not None:
      line += f"      {found.token[value]:10.6f}"
    lines.append(line)
  lines += ["", verdict(found)]
  most = min(top, len(found.covers))
  lines += ["", f"covers: {len(found.covers)}, of which the {most} likeliest"]
  for spelled, share in found.covers[:most]:
    lines.append(f"{share:10.6f}  {_readable.tokens(spelled) or '(empty)'}")
  lines += ["", "greedy continuation"]
  prompt = _readable.text(found.prompt)
  lines.append(f"exact           {prompt}[{_readable.text(found.exact_text)}]")
  if found.token is not None:
    lines.append(
      f"token-prompted  {prompt}[{_readable.text(found.token_text)}]"
    )
  return "\n".join(lines)


def shown_bytes(found: Found, top: int) -> list[int]:
  """The top bytes of both distributions, by the larger of their two."""
  both = [found.exact] if found.token is None else [found.exact, found.token]
  chosen = {int(b) for one in both for b in np.argsort(-one)[:top] if one[b]}
  largest = np.max(both, axis=0)
  return sorted(chosen, key=lambda value: -largest[value])


def verdict(found: Found) -> str:
  """How far token prompting is off, in sentences."""
  if found.token is None:
    return f"Token prompting has no answer. {found.why_not}"
  apart = found.divergence
  if math.isinf(apart.kl):
    size = "infinite (token prompting excludes a byte that is possible)"
  else:
    size = f"{apart.kl:.3f} nats ({apart.kl / math.log(2):.3f} bits)"
  best, other = int(found.exact.argmax()), int(found.token.argmax())
  top = (
    "the same top byte"
    if best == other
    else f"the top byte changes from {_readable.byte(best)}"
    f" to {_readable.byte(other)}"
  )
  barred = float(found.token[found.exact == 0].sum())
  return (
    f"KL(exact || token-prompted) = {size};"
    f" total variation {apart.total_variation:.3f}; {top}.\n"
    f"Token prompting gives {found.token[best]:.4f} to"
    f" {_readable.byte(best)}, which has {found.exact[best]:.4f},"
    f" and {barred:.4f} to bytes that cannot follow at all."
  )


def record(found: Found, top: int) -> dict[str, Any]:
  """Everything as JSON; an infinite divergence is null."""
  apart = found.divergence
  kl = None if apart is None or math.isinf(apart.kl) else apart.kl
  token = found.token
  return {
    "model": found.model,
    "prompt": _readable.text(found.prompt),
    "prompt_hex": found.prompt.hex(),
    "tokens": list(map(_readable.text, found.tokens)),
    "exact": found.exact.tolist(),
    "token_prompted": None if token is None else token.tolist(),
    "why_not": found.why_not,
    "kl_nats": kl,
    "total_variation": None if apart is None else apart.total_variation,
    "covers": len(found.covers),
    "likeliest_covers": [
      {"tokens": list(map(_readable.text, spelled)), "posterior": share}
      for spelled, share in found.covers[:top]
    ],
    "exact_continuation": _readable.text(found.exact_text),
    "token_prompted_continuation": _readable.text(found.token_text),
    "environment": _runtime.public_environment(),
  }


def draw(found: Found, top: int, path: pathlib.Path) -> None:
  """Draws both distributions over the top bytes."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  values = shown_bytes(found, top)[: 2 * top]
  figure, axes = plt.subplots(
    figsize=(max(5.0, 0.5 * len(values) + 2), 3.6), layout="constrained"
  )
  at = np.arange(len(values))
  sides = [("exact", found.exact, "C0")]
  if found.token is not None:
    sides.append(("token-prompted", found.token, "C1"))
  width = 0.8 / len(sides)
  for k, (name, shares, color) in enumerate(sides):
    shift = (k - (len(sides) - 1) / 2) * width
    axes.bar(at + shift, shares[values], width, color=color, label=name)

  def plain(text: str) -> str:
    # The figures' font has no symbol for a space, but an open box.
    return text.replace("$", r"\$").replace(_readable.SPACE, "␣")

  labels = [plain(_readable.byte(value)) for value in values]
  axes.set_xticks(at, labels, family="monospace")
  axes.set_ylim(0, 1)
  axes.set_ylabel("probability of the next byte")
  shown = _readable.text(found.prompt)
  shown = shown if len(shown) <= 40 else "…" + shown[-39:]
  axes.set_title(plain(shown), family="monospace")
  if (apart := found.divergence) is None:
    caption = "token prompting has no answer"
  else:
    caption = (
      f"{found.model}: KL(exact ‖ token-prompted) ="
      f" {apart.kl / math.log(2):.2f} bits, total variation"
      f" {apart.total_variation:.2f}"
    )
  axes.set_xlabel(caption, fontsize="small", color="0.3")
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False)
  with store.atomic_path(path) as part:
    figure.savefig(part, format=path.suffix[1:], dpi=150)
  plt.close(figure)


def run() -> None:
  """Does what the flags say."""
  warnings.showwarning = lambda message, *_: print(
    f"warning: {message}", file=sys.stderr
  )
  begun = time.monotonic()
  config = _CONFIG.value
  chosen = {
    holder.name: config[holder.name] if holder.value is None else holder.value
    for holder in (_MODEL, _MAX_BYTES, _TOP, _VALIDITY, _UTF8, _DTYPE)
  }
  prompt = _prompts.read(config.prompt)
  figure = _FIGURE.value and pathlib.Path(_FIGURE.value)
  if figure and figure.suffix not in FIGURES:
    raise byteprob.ByteprobError(
      f"--figure={figure} must end in one of {', '.join(FIGURES)}"
    )
  lm = byteprob.load(
    chosen["model"],
    dtype=chosen["dtype"],
    validity=chosen["validity"],
    utf8=chosen["utf8"],
  )
  name = pathlib.Path(chosen["model"]).name
  found = find(lm, name, prompt, chosen["max_bytes"])
  print(report(found, chosen["top"]))
  if figure:
    draw(found, chosen["top"], figure)
  if _JSON.value:
    seconds = round(time.monotonic() - begun, 2)
    _runtime.write_json(
      pathlib.Path(_JSON.value),
      {"seconds": seconds, **record(found, chosen["top"])},
    )


if __name__ == "__main__":
  _runtime.main(run)
