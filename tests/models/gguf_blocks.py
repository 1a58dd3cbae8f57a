"""Host: the quantised blocks of ggml, one number at a time, from its spec.

Slow and obvious, to check readers that are neither.
"""

from collections.abc import Callable

import numpy as np

# Bytes of a block, numbers in it, and where its float16 scales are.
_LAYOUT = {
  "F32": (4, 1, ()),
  "F16": (2, 1, ()),
  "BF16": (2, 1, ()),
  "Q8_0": (34, 32, (0,)),
  "Q4_0": (18, 32, (0,)),
  "Q4_1": (20, 32, (0, 2)),
  "Q5_0": (22, 32, (0,)),
  "Q5_1": (24, 32, (0, 2)),
  "Q2_K": (84, 256, (80, 82)),
  "Q3_K": (110, 256, (108,)),
  "Q4_K": (144, 256, (0, 2)),
  "Q5_K": (176, 256, (0, 2)),
  "Q6_K": (210, 256, (208,)),
}
KINDS = tuple(_LAYOUT)


def random_blocks(
  kind: str, *, rows: int, blocks: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Random bytes with sane scales, and the numbers that they stand for."""
  size, count, scales = _LAYOUT[kind]
  if not scales:
    # Plain floats: whole rows of sane ones.
    x = np.random.default_rng(seed).normal(size=(rows, 32 * blocks))
    return _plain(kind, x.astype(np.float32))
  rng = np.random.default_rng(seed)
  data = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
  for at in scales:
    scale = rng.normal(size=(rows, blocks)).astype(np.float16)
    data[..., at : at + 2] = scale[..., None].view(np.uint8)
  want = np.empty((rows, blocks, count), np.float32)
  for index in np.ndindex(rows, blocks):
    want[index] = _READERS[kind](data[index].tolist())
  return data.reshape(rows, -1), want.reshape(rows, -1)


def _plain(kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  if kind == "F32":
    return x, x
  if kind == "F16":
    return x.astype(np.float16), x.astype(np.float16).astype(np.float32)
  # The upper half of each float32.
  upper = x.view(np.uint32) >> 16
  want = (upper << 16).view(np.float32)
  return upper.astype(np.uint16).view(np.uint8), want


def _half(block: list[int], at: int) -> float:
  return float(np.array(block[at : at + 2], np.uint8).view(np.float16)[0])


def _signed(byte: int) -> int:
  return byte - 256 if byte > 127 else byte


def _q8_0(b):
  return [_half(b, 0) * _signed(q) for q in b[2:]]


def _q4_0(b):
  q = b[2:]
  d = _half(b, 0)
  return [d * ((q[i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]


def _q4_1(b):
  q = b[4:]
  d, m = _half(b, 0), _half(b, 2)
  return [d * (q[i % 16] >> 4 * (i // 16) & 15) + m for i in range(32)]


def _five_bits(high, q, i):
  bit = high[i // 8] >> i % 8 & 1
  return (q[i % 16] >> 4 * (i // 16) & 15) + 16 * bit


def _q5_0(b):
  d, high, q = _half(b, 0), b[2:6], b[6:]
  return [d * (_five_bits(high, q, i) - 16) for i in range(32)]


def _q5_1(b):
  d, m, high, q = _half(b, 0), _half(b, 2), b[4:8], b[8:]
  return [d * _five_bits(high, q, i) + m for i in range(32)]


def _q2_k(b):
  scales, q, d, dmin = b[:16], b[16:80], _half(b, 80), _half(b, 82)
  y = []
  for i in range(256):
    # 16 numbers a scale; 128 numbers in 32 bytes, two bits at a time.
    s = scales[i // 16]
    v = q[32 * (i // 128) + i % 32] >> 2 * (i % 128 // 32) & 3
    y.append(d * (s & 15) * v - dmin * (s >> 4))
  return y


def _q3_k(b):
  mask, q, packed, d = b[:32], b[32:96], b[96:108], _half(b, 108)
  y = []
  for i in range(256):
    j = i // 16
    low = packed[j % 8] >> 4 * (j // 8) & 15
    high = packed[8 + j % 4] >> 2 * (j // 4) & 3
    v = q[32 * (i // 128) + i % 32] >> 2 * (i % 128 // 32) & 3
    if not mask[i % 32] >> (i // 32) & 1:
      v -= 4
    y.append(d * ((low | high << 4) - 32) * v)
  return y


def _scale_and_least(packed, j):
  """Six bits each, of eight pairs in twelve bytes."""
  if j < 4:
    return packed[j] & 63, packed[j + 4] & 63
  scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4
  return scale, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def _q4_k(b):
  d, dmin, packed, q = _half(b, 0), _half(b, 2), b[4:16], b[16:]
  y = []
  for i in range(256):
    scale, least = _scale_and_least(packed, i // 32)
    v = q[32 * (i // 64) + i % 32] >> 4 * (i % 64 // 32) & 15
    y.append(d * scale * v - dmin * least)
  return y


def _q5_k(b):
  d, dmin, packed = _half(b, 0), _half(b, 2), b[4:16]
  high, q = b[16:48], b[48:]
  y = []
  for i in range(256):
    scale, least = _scale_and_least(packed, i // 32)
    v = q[32 * (i // 64) + i % 32] >> 4 * (i % 64 // 32) & 15
    v += 16 * (high[i % 32] >> (i // 32) & 1)
    y.append(d * scale * v - dmin * least)
  return y


def _q6_k(b):
  low, high, scales, d = b[:128], b[128:192], b[192:208], _half(b, 208)
  y = []
  for i in range(256):
    half, j = divmod(i, 128)
    v = low[64 * half + j % 64] >> 4 * (j // 64) & 15
    v |= (high[32 * half + j % 32] >> 2 * (j // 32) & 3) << 4
    y.append(d * _signed(scales[i // 16]) * (v - 32))
  return y


_READERS: dict[str, Callable[[list[int]], list[float]]] = {
  "Q8_0": _q8_0,
  "Q4_0": _q4_0,
  "Q4_1": _q4_1,
  "Q5_0": _q5_0,
  "Q5_1": _q5_1,
  "Q2_K": _q2_k,
  "Q3_K": _q3_k,
  "Q4_K": _q4_k,
  "Q5_K": _q5_k,
  "Q6_K": _q6_k,
}
