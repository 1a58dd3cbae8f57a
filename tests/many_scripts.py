"""Host: text of many scripts and of code, from what every machine has.

Python's own sources and documentation, sentences in many languages, every
letter that Unicode names, and mixtures of all that tokenizers trip over.
"""

import functools
import pathlib
import pydoc_data.topics
import random
import unicodedata

SENTENCES = (
  "It's what we'd said: they'll do 12,345.67 things, won't they? I'VE SEEN IT!",
  "L’été dernier, j’ai mangé des crêpes à Besançon ; c’était délicieux, non ?",
  "Größere Übungen ließen sich öfter draußen prüfen, z. B. „Straßenfußball“.",
  "Hvað er þetta? Ég veit það ekki. Smørrebrød på øya, æ e i a æ å.",
  "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
  "Việt Nam là một quốc gia nằm ở phía đông bán đảo Đông Dương, rất đẹp.",
  "İstanbul'da ılık bir gün; ığdır, çöğür, şeftali. Iğdır'ın ışığı.",
  "Съешь же ещё этих мягких французских булок, да выпей чаю №5. Їжак є.",
  "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· ᾿Αρχὴ ἥμισυ παντός, ὦ ἄνδρες.",
  "Բարեւ ձեզ, ինչպե՞ս եք։ Ես լավ եմ, շնորհակալություն։",
  "გამარჯობა, როგორ ხარ? დღეს კარგი ამინდია. ᲒᲐᲛᲐᲠᲯᲝᲑᲐ.",
  "שָׁלוֹם עֲלֵיכֶם, מַה שְּׁלוֹמְךָ? זהו משפט בעברית עם ניקוד, ועוד אחד בלי.",
  "السَّلَامُ عَلَيْكُمْ، كيف حالك؟ هٰذا نصٌّ بالعربية ١٢٣٤٥٦؛ وشكرًا لك.",
  "این یک جملهٔ فارسی است؛ می‌خواهم کتاب‌ها را ببینم. ۱۲۳۴",
  "यह हिन्दी का एक वाक्य है। क्षत्रिय, ज्ञान, श्री—संयुक्ताक्षर। १२३४५",
  "আমি বাংলায় গান গাই। ক্ষুদ্র, জ্ঞান, ব্রাহ্মণ। ০১২৩",
  "தமிழ் ஒரு தொன்மையான மொழி. நான் உன்னைக் காதலிக்கிறேன். ௧௨௩",
  "తెలుగు భాష చాలా తియ్యనిది. నమస్కారం! ౧౨౩",
  "ภาษาไทยไม่มีช่องว่างระหว่างคำ น้ำกำลังไหลอยู่ในที่นั้น ๑๒๓",
  "ພາສາລາວ ສະບາຍດີ. ខ្ញុំស្រលាញ់ភាសាខ្មែរ។ မြန်မာစာ လှသည်။",
  "བོད་ཡིག་ནི་ཧ་ཅང་མཛེས་པོ་ཡིན། ༡༢༣",
  "ኢትዮጵያ ውብ ሀገር ናት። ሰላም ነው? ፩፪፫",
  "我能吞下玻璃而不伤身体。２０２４年，「你好」——世界！第一、第二……",
  "私はガラスを食べられます。カタカナ、ひらがな、漢字。ｶﾀｶﾅ　ﾃﾞｽ。〜",
  "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요. ㅋㅋㅋ ㅠㅠ",
  "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᓄᓇᕗᑦ ᐃᓄᒃᑎᑐᑦ ꦧꦱꦗꦮ 𐌲𐌿𐍄𐌹𐍃𐌺 𓂀𓆣𓋹 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝟙𝟚𝟛",
  "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, ∑ᵢ aᵢ² ≤ √π·e^{iθ}; x₁⁺¹ ½ ¾ Ⅷ ⑨ 〇 ㊿",
)
"""A sentence or two in each of many languages, typed by hand."""

TRICKY = (
  *"     \n\n\n\t\r  \u00a0\u2003\u3000\u200b\u2028\u0085\x0b\x0c",
  *"0123456789''''\"’‘.,,;:!?-–—_/\\#*()[]{}<>=+|&%$@~^`",
  *"abcdeifghlmnorstuvABSTLé٣৪Ⅷ²½零ſKǅʰªßσςΣ",
  *"\u0301\u0308\u0323\u20dd\u200d\ufe0f\u093c\u0902\u0e34\u1160\u11a8",
  "\r\n", "\n\n", "\n\n\n", "  ", "    ", "        ", " \n", "\t\t",
  "'s", "'ll", "'re", "'VE", "'ſ", "’s", "don't", "n't ", " 's", "x's",
  "1234", "007", "3.14", "1,000,000", "１２", " 12", "١٢٣",
  "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇯🇵", "🇫", "1️⃣", "❤️",
  "...", "!!\n", "://", "//\n", "});\n", "<|", "|>", "▁", "▁▁", "</s>",
  "<0x0A>", "<s>", "[INST]", "<|endoftext|>", "<unused7>", "<start_of_turn>",
  " the", "The", "HELLO", "wOrd", "ing", "中文", "日本", "한국", "\ufeff",
  "\ufffd", "\ud7ff", "\ue000", "\U0010ffff", "\U000e0041", "\u0378",
)  # fmt: skip
"""What tokenizers treat in ways of their own."""


@functools.cache
def _sources() -> str:
  """Python's documentation and some of its own sources."""
  library = pathlib.Path(functools.__file__).parent
  names = ("argparse", "difflib", "inspect", "tarfile", "turtle", "typing")
  parts = [*pydoc_data.topics.topics.values()]
  for name in names:
    parts.append((library / f"{name}.py").read_text(encoding="utf-8"))
  return "\n\n".join(parts)


@functools.cache
def _letters() -> dict[str, str]:
  """Characters that Unicode names, by the first word of their names."""
  found: dict[str, list[str]] = {}
  for point in range(0x20, 0x20000):
    if name := unicodedata.name(chr(point), ""):
      found.setdefault(name.split()[0].split("-")[0], []).append(chr(point))
  return {
    script: "".join(chars)
    for script, chars in sorted(found.items())
    if len(chars) > 20
  }


def _slice(rng: random.Random, text: str, size: int) -> str:
  at = rng.randrange(max(1, len(text) - size))
  return text[at : at + size]


def _source(rng):
  return _slice(rng, _sources(), rng.randrange(100, 900))


def _sentences(rng):
  chosen = rng.choices(SENTENCES, k=rng.randrange(1, 5))
  gap = rng.choice(["\n", " ", "\n\n", "  ", "", "\t", " \n "])
  return _slice(rng, gap.join(chosen), rng.randrange(20, 300))


def _tricky(rng):
  return "".join(rng.choices(TRICKY, k=rng.randrange(1, 120)))


def _mixed(rng):
  words = "".join(rng.choices(SENTENCES, k=3)).split(" ")
  parts = [rng.choice(words) for _ in range(rng.randrange(1, 40))]
  return "".join(part + rng.choice(TRICKY) for part in parts)


def _script(rng):
  letters = rng.choice(list(_letters().values()))
  parts = rng.choices(letters, k=rng.randrange(1, 60))
  return "".join(c + " " * (rng.random() < 0.15) for c in parts)


KINDS = (_source, _source, _sentences, _tricky, _mixed, _script)


def texts(seed: int, count: int, size: int) -> list[str]:
  """Texts of one or several kinds, one after the other.

  Args:
    seed: of what is chosen.
    count: how many.
    size: bytes of each, at most; three less, at least.
  """
  rng = random.Random(seed)
  found: list[str] = []
  for _ in range(count):
    text = ""
    while len(text.encode()) < size:
      text += rng.choice(KINDS)(rng)
    found.append(text.encode()[:size].decode("utf-8", "ignore"))
  return found
