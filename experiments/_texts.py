"""Host: long texts to measure on, from what Python itself brings, or typed."""

import gzip
import inspect
import json.decoder
import pathlib
import zlib
from typing import Any

from byteprob.errors import ByteprobError

NAMES = ("english", "code", "repetitive", "chinese", "emoji", "urls")

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


_URLS = """https://www.python.org/downloads/release/python-3120/
https://en.wikipedia.org/wiki/Byte_pair_encoding#Original_algorithm
https://github.com/google/jax/blob/main/jax/_src/lax/control_flow/loops.py
https://arxiv.org/abs/2410.09303v2
https://docs.python.org/3/library/urllib.parse.html?highlight=quote
http://localhost:8080/api/v1/users/42/orders?sort=desc&limit=20
https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=43s
https://example.com/search?q=language+models&lang=en&page=2
https://pypi.org/project/transformers/#history
https://www.nytimes.com/2024/11/05/technology/artificial-intelligence.html
ftp://ftp.gnu.org/gnu/gcc/gcc-13.2.0/gcc-13.2.0.tar.gz
https://stackoverflow.com/questions/11227809/why-is-processing-a-sorted-array
https://maps.google.com/maps?ll=48.8584,2.2945&z=16&t=k
https://huggingface.co/HuggingFaceTB/SmolLM2-135M/tree/main
https://cdn.jsdelivr.net/npm/bootstrap@5.3.2/dist/css/bootstrap.min.css
mailto:someone@example.org?subject=Meeting%20on%20Tuesday&body=Hello%2C
https://api.openweathermap.org/data/2.5/weather?q=London,uk&appid=abc123
https://www.amazon.com/dp/0262035618/ref=sr_1_1?keywords=deep+learning
https://data.gov.uk/dataset/176ae264-2484-4afe-a297-d51798eb8228/prices
https://www.bbc.co.uk/news/science-environment-56837908
https://raw.githubusercontent.com/torvalds/linux/master/MAINTAINERS
file:///usr/share/doc/python3/examples/README.txt
https://www.w3.org/TR/2011/REC-CSS2-20110607/visuren.html#floats
https://news.ycombinator.com/item?id=39876543
"""


def source(name: str) -> bytes:
  """A text.

  `english` is Python's help topics, `code` modules of its library,
  `repetitive` lines of a table, all long and ASCII; `chinese`, `emoji` and
  `urls` have a thousand bytes or two.

  Or a file's, given by its path (`.gz` too), or all of a column of a data set
  on the hub, `hub:NAME:CONFIG:SPLIT:FIELD`, read with the `datasets` package.

  Raises:
    ByteprobError: there is no such text.
  """
  if name.startswith("hub:"):
    return _from_hub(name)
  if (path := pathlib.Path(name)).is_file():
    return _from_file(path)
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
  if name == "urls":
    return _URLS.encode()
  raise ByteprobError(
    f"there is no text {name!r}: name one of {', '.join(NAMES)}, or a file"
  )


def _from_file(path: pathlib.Path) -> bytes:
  if path.suffix != ".gz":
    return path.read_bytes()
  try:
    with gzip.open(path) as file:
      return file.read()
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ByteprobError(f"{path} is no gzip file: {error}") from error


def _from_hub(name: str) -> bytes:
  try:
    _, dataset, variant, split, field = name.split(":")
  except ValueError:
    raise ByteprobError(
      f"{name!r} is not of the form hub:NAME:CONFIG:SPLIT:FIELD"
    ) from None
  return "".join(hub_rows(dataset, variant, split)[field]).encode()


def hub_rows(dataset: str, variant: str, split: str) -> Any:
  """A data set on the hub, read with the `datasets` package.

  Raises:
    ByteprobError: the package is not installed.
  """
  try:
    import datasets
  except ImportError:
    raise ByteprobError(
      "data sets on the hub are read with a package that is not installed:"
      " pip install datasets"
    ) from None
  return datasets.load_dataset(dataset, variant or None, split=split)


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
