"""Host: figures that print well, in colours that all can tell apart."""

import itertools
import types

import matplotlib

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
  "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
"""Okabe and Ito's colours."""

STYLES = tuple(
  {"color": color, "marker": marker, "linestyle": line, "linewidth": 1.4}
  for color, marker, line in zip(
    (BLUE, RED, GREEN, ORANGE, PURPLE, BLACK, SKY),
    "osD^vPX",
    itertools.cycle(["-", "--", "-.", ":"]),
    strict=False,
  )
)
"""One for each line of a figure: they differ in print without colours too."""


def pyplot() -> types.ModuleType:
  """Matplotlib's pyplot, which needs no screen and draws no frames."""
  matplotlib.use("Agg")
  from matplotlib import pyplot

  pyplot.rcParams.update(
    {
      "axes.spines.top": False,
      "axes.spines.right": False,
      "lines.markersize": 4.5,
      "font.size": 9,
    }
  )
  return pyplot
