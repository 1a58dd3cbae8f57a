"""Host: a regular expression as a byte automaton; a program of its own.

`constraints.compile_regex` runs this file in a process that it can stop,
since the library bounds neither the time nor the room that it takes. Nothing
of byteprob is imported here, so that the process starts at once.

In: the pattern, UTF-8. Out: a line of JSON, with `error` (the library's
words) or `states`, and then, if those are few enough, `int32[states, 256]`
and `uint8[states]`.
"""

import array
import json
import sys

_EOS = 256


def read(pattern: str):
  """The library's automaton: `{state: {byte: state}}`, final states, start.

  The library looks for the one match that a backtracking search would find
  first; the end anchor keeps all ways of matching until the text ends. A
  newline first, since the library takes no anchor in the start state.

  It compiles the search from all positions as well. That is not used, but
  may be exponential in the length of a match; the empty alternative at the
  end is found at once, and stops it. The library drops the step after such a
  match where the text cannot end, so it may end after a newline.
  """
  import outlines_core

  alphabet = {bytes([byte]): [byte] for byte in range(256)}
  index = outlines_core.Index(
    f"\n(?:\n(?:{pattern})|)\\z|", outlines_core.Vocabulary(_EOS, alphabet)
  )
  moves = index.get_transitions()
  newline = ord("\n")
  start = moves[moves[index.get_initial_state()][newline]].get(newline)
  return moves, index.get_final_states(), start


def number(moves, start) -> list[int]:
  """The states that texts lead to, the start first; the end keeps a state."""
  order, met = [start], {start}
  for state in order:
    for _, after in sorted(moves.get(state, {}).items()):
      if after not in met:
        met.add(after)
        order.append(after)
  return order


def main(most: int) -> None:
  """Reads a pattern and writes its automaton, if it has at most so many."""
  pattern, out = sys.stdin.buffer.read().decode(), sys.stdout.buffer
  try:
    moves, finals, start = read(pattern)
  except ValueError as error:
    out.write(json.dumps({"error": str(error)}).encode() + b"\n")
    return
  order = [] if start is None else number(moves, start)
  out.write(json.dumps({"states": len(order)}).encode() + b"\n")
  if len(order) > most:
    return
  name = {state: k for k, state in enumerate(order)}
  table = array.array("i", [-1]) * (256 * len(order))
  for k, state in enumerate(order):
    for byte, after in moves.get(state, {}).items():
      if byte != _EOS:
        table[256 * k + byte] = name[after]
  out.write(table.tobytes())
  out.write(bytes(state in finals for state in order))


if __name__ == "__main__":
  main(int(sys.argv[1]))
