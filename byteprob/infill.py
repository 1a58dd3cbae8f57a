"""Host: prompts to fill in the middle, for models that have tokens for it.

Prefix, suffix and middle stand between special tokens, in one of three orders
(Bavarian et al., "Efficient Training of Language Models to Fill in the
Middle", 2022; `joint_spm` is the second variant of its appendix D):

  psm        <prefix> prefix <suffix> suffix <middle> | middle <end>
  spm        <suffix> suffix <prefix> prefix <middle> | middle <end>
  joint_spm  <prefix> <suffix> suffix <middle> prefix | middle <end>

The prompt is what stands before the bar. In the first two it ends with a
token, and so there is nothing to be exact about: the middle begins where a
token does. In the last one prefix and middle are one text, which a token may
span, and prompting with the prefix's own tokens says that none does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from byteprob.errors import PromptError
from byteprob.prompt import Bare, Context, Text, as_bytes
from byteprob.sampling import tokenwise
from byteprob.tokenization import Tables, spell_all

Method = Literal["byte"] | tokenwise.Method

Order = Literal["psm", "spm", "joint_spm"]
ORDERS: tuple[Order, ...] = ("psm", "spm", "joint_spm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """How models of one kind are asked to fill in the middle.

  Attributes:
    prefix, suffix, middle: the tokens before them.
    ends: tokens that end the middle, beside those that end any text.
    orders: what the models were trained on; the first is used unless another
      is asked for.
    start: the tokenizer's start tokens come first.
    spaced: where the tokenizer puts a space before a text, it puts one before
      the suffix, and before a middle that does not go on from the prefix.
    known_by: tokens that tell these models from others with the same ones.
  """

  prefix: str
  suffix: str
  middle: str
  ends: tuple[str, ...] = ()
  orders: tuple[Order, ...] = ("psm",)
  start: bool = True
  spaced: bool = True
  known_by: tuple[str, ...] = ()

  def tokens(self) -> tuple[str, ...]:
    """All that a tokenizer must have."""
    return (
      self.prefix, self.suffix, self.middle, *self.ends, *self.known_by,
    )  # fmt: skip


FAMILIES: Mapping[str, Family] = {
  # Its own code encodes the suffix behind another character, "\u263a", and
  # decodes the middle so: neither has a space before it. (Roziere et al.,
  # 2023; facebookresearch/codellama.)
  "codellama": Family(
    prefix="\u2581<PRE>",
    suffix="\u2581<SUF>",
    middle="\u2581<MID>",
    ends=("\u2581<EOT>",),
    orders=("psm", "joint_spm"),
    spaced=False,
  ),
  # Files of a repository follow one another (Lozhkov et al., 2024).
  "starcoder2": Family(
    prefix="<fim_prefix>",
    suffix="<fim_suffix>",
    middle="<fim_middle>",
    ends=("<|endoftext|>", "<file_sep>"),
    orders=("psm", "joint_spm"),
    start=False,
  ),
  "starcoder": Family(
    prefix="<fim_prefix>",
    suffix="<fim_suffix>",
    middle="<fim_middle>",
    ends=("<|endoftext|>",),
    orders=("psm", "joint_spm"),
    start=False,
  ),
  "codegemma": Family(
    prefix="<|fim_prefix|>",
    suffix="<|fim_suffix|>",
    middle="<|fim_middle|>",
    ends=("<|file_separator|>",),
  ),
  "qwen2.5-coder": Family(
    prefix="<|fim_prefix|>",
    suffix="<|fim_suffix|>",
    middle="<|fim_middle|>",
    ends=("<|endoftext|>",),
    start=False,
    known_by=("<|repo_name|>",),
  ),
  "deepseek-coder": Family(
    prefix="<\uff5cfim\u2581begin\uff5c>",
    suffix="<\uff5cfim\u2581hole\uff5c>",
    middle="<\uff5cfim\u2581end\uff5c>",
    ends=("<\uff5cend\u2581of\u2581sentence\uff5c>",),
  ),
  # The models in this package, and what `experiments/train_lm.py` makes.
  "stdlib": Family(
    prefix="<|fim_prefix|>",
    suffix="<|fim_suffix|>",
    middle="<|fim_middle|>",
    orders=("psm", "joint_spm"),
  ),
}
"""The families, those that others' tokens contain first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
  """A family, with the ids that one tokenizer gives its tokens.

  Attributes:
    family: the family.
    start: ids that a prompt begins with.
    prefix, suffix, middle: ids of the family's tokens.
    ends: ids that end a middle, those that end any text among them.
  """

  family: Family
  start: tuple[int, ...]
  prefix: int
  suffix: int
  middle: int
  ends: tuple[int, ...]

  def context(
    self, prefix: Text, suffix: Text, order: Order | None = None
  ) -> Context:
    """The prompt: bytes and token ids.

    Args:
      prefix: what comes before the middle; may be empty. It may end anywhere,
        but inside a character only in `joint_spm`.
      suffix: what comes after it; may be empty.
      order: see `ORDERS`; None for the family's first.

    Raises:
      ValueError: there is no such order.
    """
    order = order or self.family.orders[0]
    apart = bytes if self.family.spaced else Bare
    before, after = as_bytes(prefix), apart(as_bytes(suffix))
    match order:
      case "psm":
        tail = [self.prefix, before, self.suffix, after, self.middle, apart()]
      case "spm":
        tail = [self.suffix, after, self.prefix, before, self.middle, apart()]
      case "joint_spm":
        tail = [self.prefix, self.suffix, after, self.middle, before]
      case _:
        raise ValueError(
          f"order must be one of {', '.join(ORDERS)}, not {order!r}"
        )
    return [*self.start, *tail]


def format_of(tables: Tables, family: str | Family | None = None) -> Format:
  """How a model is asked to fill in the middle.

  Args:
    tables: its tokenizer.
    family: a family, or the name of one in `FAMILIES`; None for the first of
      them whose tokens the tokenizer has.

  Raises:
    PromptError: the tokenizer lacks the tokens, or one that should end the
      middle is none that texts are not spelled with.
    ValueError: there is no family of this name.
  """
  if isinstance(family, str) and family not in FAMILIES:
    raise ValueError(
      f"there is no family {family!r}: name one of {', '.join(FAMILIES)}, or"
      " give an infill.Family"
    )
  asked = (
    tuple(FAMILIES.values())
    if family is None
    else (FAMILIES[family] if isinstance(family, str) else family,)
  )
  ids = _ids(tables, {text for one in asked for text in one.tokens()})
  found = next((one for one in asked if ids.keys() >= {*one.tokens()}), None)
  if found is None:
    lacks = next(text for text in asked[0].tokens() if text not in ids)
    raise PromptError(
      "This model has no tokens to fill in the middle"
      + (
        ": its tokenizer has those of none of the families"
        if family is None
        else f" as asked: its tokenizer has no {lacks!r}. The families are"
      )
      + f" {', '.join(FAMILIES)}; if it has others, give them as a"
      " byteprob.infill.Family."
    )
  special = dict(tables.info.special)
  if text := next((text for text in found.ends if text not in special), None):
    raise PromptError(
      f"{text!r} ends the middle, but this model's tokenizer file does not"
      " have it as a special token; take a tokenizer.json that does."
    )
  own = np.asarray(tables.end_ids).tolist()
  return Format(
    family=found,
    start=tables.info.start_ids if found.start else (),
    prefix=ids[found.prefix],
    suffix=ids[found.suffix],
    middle=ids[found.middle],
    ends=tuple(dict.fromkeys([*own, *(special[text] for text in found.ends)])),
  )


def _ids(tables: Tables, texts: set[str]) -> dict[str, int]:
  """Ids of the tokens with these texts, where there are any.

  Qwen and DeepSeek have theirs as added tokens that are not special, which
  texts are spelled with.
  """
  wanted = {text.encode() for text in texts}
  spelled = zip(
    spell_all(tables), np.asarray(tables.token_id).tolist(), strict=True
  )
  found = {data.decode(): id_ for data, id_ in spelled if data in wanted}
  return found | {t: id_ for t, id_ in tables.info.special if t in texts}
