"""Host: long texts to measure on, from what Python itself brings, or typed."""

import inspect
import json.decoder

from byteprob.errors import ByteprobError

NAMES = ("english", "code", "repetitive", "chinese", "emoji")

_CHINESE = (
  "道可道，非常道。名可名，非常名。無名天地之始；有名萬物之母。"
  "故常無欲，以觀其妙；常有欲，以觀其徼。此兩者，同出而異名，同謂之玄。"
  "玄之又玄，衆妙之門。\n天下皆知美之爲美，斯惡已。皆知善之爲善，斯不善已。"
  "故有無相生，難易相成，長短相較，高下相傾，音聲相和，前後相隨。"
  "是以聖人處無爲之事，行不言之教；萬物作焉而不辭，生而不有，爲而不恃，"
  "功成而弗居。夫唯弗居，是以不去。\n不尚賢，使民不爭；不貴難得之貨，"
  "使民不爲盜；不見可欲，使民心不亂。是以聖人之治，虛其心，實其腹，"
  "弱其志，強其骨。常使民無知無欲。使夫智者不敢爲也。爲無爲，則無不治。\n"
  "上善若水。水善利萬物而不爭，處衆人之所惡，故幾於道。居善地，心善淵，"
  "與善仁，言善信，正善治，事善能，動善時。夫唯不爭，故無尤。\n"
  "合抱之木，生於毫末；九層之臺，起於累土；千里之行，始於足下。\n"
)
"""From the Daodejing."""

_EMOJI = """Good morning! ☀️ Coffee first ☕, then everything else 😴➡️😀.
Lunch today: pizza 🍕, sushi 🍣, or just a salad 🥗? Vote below 👇👇
🎉 Happy birthday, Sam! 🎂🎈 Hope it is a great one 🥳❤️
Train is late again 🚆😡… see you at half past six 🕡👋
Family trip 👩‍👩‍👧‍👦🚗🏖️ — three days of sun 🌞 and no phones 📵
Scores: 🇫🇷 2 – 1 🇧🇷 ⚽🔥 what a game!! 🤯🤯
To do: 📝 write, 🏃 run 5 km, 🛒 milk + eggs 🥚, 📞 call mum 👵🏽
Deploy is green ✅, tests pass 🧪, bugs: 0️⃣ 🐛 … for now 🤞
"""


def source(name: str) -> bytes:
  """A text.

  `english` is Python's help topics, `code` modules of its library,
  `repetitive` lines of a table, all long and ASCII; `chinese` and `emoji`
  have about a thousand bytes.

  Raises:
    ByteprobError: there is no such text.
  """
  if name == "english":
    from pydoc_data import topics

    text = "\n".join(topics.topics[key] for key in sorted(topics.topics))
    return text.encode("ascii", "ignore")
  if name == "code":
    import argparse

    text = inspect.getsource(json.decoder) + inspect.getsource(argparse)
    return text.encode("ascii", "ignore")
  if name == "repetitive":
    colours = ("red", "green", "blue", "yellow")
    lines = (
      f'{{"id": {k}, "colour": "{colours[k % 4]}", "size": 10}},\n'
      for k in range(1000)
    )
    return "".join(lines).encode()
  if name == "chinese":
    return _CHINESE.encode()
  if name == "emoji":
    return _EMOJI.encode()
  raise ByteprobError(
    f"there is no text {name!r}: name one of {', '.join(NAMES)}"
  )


def prompts(name: str, size: int, count: int) -> list[bytes]:
  """Parts of a text from all over it, which end anywhere.

  Args:
    name: see `source`.
    size: bytes of each, where the text has as many.
    count: how many; where they do not fit side by side they overlap.
  """
  text = source(name)
  step = max(len(text) - size, 0) // max(count, 1)
  found = []
  for k in range(count):
    rest = text[k * step :]
    # What is left of a character is no beginning.
    while rest and rest[0] & 0xC0 == 0x80:
      rest = rest[1:]
    found.append(rest[:size])
  return found
