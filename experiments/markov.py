"""Device: a Markov chain, its tokens, and what prompts say of the next symbol.

  python -m experiments.markov --workdir=runs/markov

A transformer is trained on the tokens of a third-order chain until it knows
the source; then, after contexts that end in each three symbols, its
token-prompted next symbol and the lemma's are held against the chain's own.
The same is asked of the token-level source in closed form, where nothing is
left to learn: what the lemma is off by there is rounding.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import byteprob
from byteprob import models
from byteprob.models import decoder
from experiments import _chain, _plots, _study, _tokenwise

CLOSED = "closed form"


def examples(config) -> list[str]:
  """Every source with every tokenizer, in closed form and trained."""
  return [
    f"{symbols} {rule} {how}"
    for symbols in config.words
    for rule in config.rules
    for how in (CLOSED, *(f"seed {seed}" for seed in range(config.seeds)))
  ]


def decoder_config(config, vocabulary) -> models.DecoderConfig:
  """A small Llama."""
  head = config.model.width // config.model.heads
  layer = models.Layer(rope=models.Rope(theta=10_000.0))
  return models.DecoderConfig(
    vocab_size=len(vocabulary.spelled),
    context_length=4 * config.context,
    width=config.model.width,
    heads=config.model.heads,
    kv_heads=config.model.heads,
    head_dim=head,
    mlp_width=3 * config.model.width,
    layers=(layer,) * config.model.depth,
    attention_scale=head**-0.5,
  )


def rows_of(chain, vocabulary, rng, count: int, context: int) -> np.ndarray:
  """Tokens of so many texts, the start before each: `int32[count, T + 1]`.

  The texts are longer, since a tokenizer takes the last symbols of one for
  its end.
  """
  longest = max(map(len, vocabulary.spelled[1:]))
  texts = chain.draw(rng, count, context * longest + 8 * longest)
  rows = [[0, *ids[:context]] for ids in vocabulary.encode(texts)]
  return np.array(rows, np.int32)


def train(config, chain, vocabulary, seed: int) -> tuple[Any, list[float]]:
  """A trained model's parameters, and its losses in nats a token."""
  shape = decoder_config(config, vocabulary)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, config.learning_rate, config.steps // 20 + 1, config.steps
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01)
  )
  params = models.init_params(shape, jax.random.key(seed))

  def loss_of(params, rows):
    logits = decoder.forward(shape, params, rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, rows[:, 1:]
    ).mean()

  @functools.partial(jax.jit, donate_argnums=0)
  def steps(state, rows):
    def step(state, rows):
      params, opt = state
      loss, grads = jax.value_and_grad(loss_of)(params, rows)
      updates, opt = optimizer.update(grads, opt, params)
      return (optax.apply_updates(params, updates), opt), loss

    return jax.lax.scan(step, state, rows)

  state, losses = (params, optimizer.init(params)), []
  rng = np.random.default_rng((seed, 1))
  chunk = 20
  for _ in range(-(-config.steps // chunk)):
    rows = rows_of(chain, vocabulary, rng, chunk * config.batch, config.context)
    rows = rows.reshape(chunk, config.batch, -1)
    state, found = steps(state, jnp.asarray(rows))
    losses += np.asarray(found).tolist()
  return state[0], losses


def cross_entropy(lm, chain, vocabulary, rng, count, context) -> float:
  """Nats a symbol of fresh texts, whole tokens only, without their start."""
  nats, symbols = 0.0, 0
  for row in rows_of(chain, vocabulary, rng, count, context).tolist():
    # The first tokens have no three symbols before them.
    nats -= float(_tokenwise.logprobs(lm, row)[_chain.ORDER :].sum())
    symbols += sum(
      len(vocabulary.spelled[token]) for token in row[1 + _chain.ORDER :]
    )
  return nats / symbols


def estimates(lm, chain, histories: dict[str, list[str]]) -> dict[str, Any]:
  """Of each three symbols: the truth, and both estimates after histories."""
  places = [ord(symbol) for symbol in chain.symbols]
  found: dict[str, Any] = {}
  for context, before in histories.items():
    prompts = [(history + context).encode() for history in before]
    exact = lm.next_byte_logprobs_batch(prompts)
    prompted = [
      _tokenwise.TokenPrompted(lm, lm.encode(prompt), 0).next_byte()
      for prompt in prompts
    ]
    found[context] = {
      "truth": chain.after(context).tolist(),
      "exact": [np.exp(row[places]).tolist() for row in exact],
      "prompted": [row[places].tolist() for row in prompted],
    }
  return found


def histories_of(chain, seed: int, count: int) -> dict[str, list[str]]:
  """Contexts of three symbols, each after `count` histories of the chain's."""
  rng = np.random.default_rng((seed, 2))
  found = {}
  for index in np.ndindex(chain.rest.shape):
    context = "".join(chain.symbols[k] for k in index)
    texts: list[str] = []
    while len(texts) < count:
      # What comes before such a context is drawn, not made up.
      for text in chain.draw(rng, 64, 24):
        at = text.find(context, 8)
        if at >= 0:
          texts.append(text[:at])
    found[context] = texts[:count]
  return found


def begin(config) -> Callable[[str], _study.Record]:
  """The chains and the tokenizers are made of the configuration alone."""

  def one(example: str) -> _study.Record:
    symbols, rule, how = example.split(" ", 2)
    chain = _chain.random_chain(symbols, config.least, config.chain_seed)
    words = config.words[symbols].split()
    vocabulary = _chain.RULES[rule](symbols, words)
    record: _study.Record = {"entropy": chain.entropy}
    if how == CLOSED:
      model = _chain.closed_form(chain, vocabulary)
      seed = config.seeds
    else:
      seed = int(how.split()[1])
      params, losses = train(config, chain, vocabulary, seed)
      model = models.make_model(decoder_config(config, vocabulary), params)
      record["losses"] = [
        float(np.mean(part))
        for part in np.array_split(losses, min(50, len(losses)))
      ]
    lm = byteprob.ByteLM(model, vocabulary.tables())
    rng = np.random.default_rng((seed, 3))
    record["cross_entropy"] = cross_entropy(
      lm, chain, vocabulary, rng, config.texts, config.context
    )
    histories = histories_of(chain, seed, config.histories)
    record["contexts"] = estimates(lm, chain, histories)
    return record

  return one


def summarize(config, records: list[_study.Record]) -> _study.Summary:
  """Of each source and tokenizer: errors, and the estimates by context."""
  sources: dict[str, Any] = {}
  for record in records:
    symbols, rule, how = record["example"].split(" ", 2)
    source = sources.setdefault(f"{symbols} {rule}", {"trained": []})
    errors: dict[str, Any] = {}
    contexts = {}
    for context, found in record["contexts"].items():
      truth = np.array(found["truth"])
      contexts[context] = {"truth": found["truth"]}
      for key in ("exact", "prompted"):
        rows = np.array(found[key])
        contexts[context][key] = rows.mean(0).tolist()
        off = abs(rows - truth)
        errors.setdefault(key, []).append(off)
    told = {
      "entropy": record["entropy"],
      "cross_entropy": record["cross_entropy"],
      "losses": record.get("losses"),
      "contexts": contexts,
    }
    for key, parts in errors.items():
      told[f"{key}_mean_error"] = float(np.mean(parts))
      told[f"{key}_max_error"] = float(np.max(parts))
    truth, exact, prompted = (
      np.concatenate(
        [
          np.broadcast_to(found[key], np.shape(found["exact"]))
          for found in record["contexts"].values()
        ]
      )
      for key in ("truth", "exact", "prompted")
    )
    # What token prompting is all but certain of, though nothing is certain.
    certain = (prompted < 1e-3) | (prompted > 1 - 1e-3)
    told["certain"] = float(certain.mean())
    off = abs(exact - truth)[certain]
    told["exact_mean_error_there"] = float(off.mean()) if off.size else None
    if how == CLOSED:
      source["closed"] = told
    else:
      source["trained"].append(told)
  return {"sources": sources}


def _spread(runs: list[dict[str, Any]], key: str) -> tuple[float, float]:
  """Mean and standard deviation over seeds."""
  values = [run[key] for run in runs if run[key] is not None]
  return float(np.mean(values)), float(np.std(values))


def report(summary: _study.Summary) -> str:
  """A table; last how often token prompting is certain, and what the lemma is
  off by there.
  """
  lines = [
    f"{'':30}{'nats a symbol':>16}{'lemma off by':>20}"
    f"{'prompting off by':>20}{'certain':>10}{'lemma':>8}",
    f"{'source':30}{'chain':>8}{'model':>8}{'mean':>10}{'worst':>10}"
    f"{'mean':>10}{'worst':>10}{'share':>10}{'there':>8}",
  ]
  for name, source in summary["sources"].items():
    for how, runs in (
      (CLOSED, [source["closed"]]),
      (f"{len(source['trained'])} trained", source["trained"]),
    ):
      if not runs:
        continue
      mean = {
        key: _spread(runs, key)[0]
        for key, value in runs[0].items()
        if isinstance(value, float)
      }
      lines.append(
        f"{name + ', ' + how:30}{mean['entropy']:8.4f}"
        f"{mean['cross_entropy']:8.4f}"
        f"{mean['exact_mean_error']:10.1e}{mean['exact_max_error']:10.1e}"
        f"{mean['prompted_mean_error']:10.3f}{mean['prompted_max_error']:10.3f}"
        f"{mean['certain']:10.3f}"
        f"{mean.get('exact_mean_error_there', math.nan):8.1e}"
      )
  return "\n".join(lines)


def draw(summary: _study.Summary) -> dict[str, Any]:
  """By context for two symbols; truth against estimate for all sources."""
  plt = _plots.pyplot()
  figures = {}
  names = list(summary["sources"])
  for name in names:
    source = summary["sources"][name]
    contexts = list(source["closed"]["contexts"])
    runs = source["trained"] or [source["closed"]]
    if len(source["closed"]["contexts"][contexts[0]]["truth"]) != 2:
      continue
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    at = np.arange(len(contexts))
    truth = [source["closed"]["contexts"][c]["truth"][0] for c in contexts]
    axis.bar(
      at - 0.27, truth, 0.25, color="0.75", edgecolor="0.3", label="the chain"
    )
    for shift, key, color, hatch, label in (
      (0.0, "exact", _plots.BLUE, "", "the lemma"),
      (0.27, "prompted", _plots.RED, "///", "token prompting"),
    ):
      values = np.array(
        [[run["contexts"][c][key][0] for c in contexts] for run in runs]
      )
      axis.bar(
        at + shift,
        values.mean(0),
        0.25,
        yerr=values.std(0),
        color=color,
        hatch=hatch,
        edgecolor="white",
        label=label,
        capsize=2,
      )
    axis.set_xticks(at, contexts, family="monospace")
    axis.set_xlabel("the last three symbols")
    symbol = name[0]
    axis.set_ylabel(f"probability that {symbol} comes next")
    axis.set_ylim(0, 1.18)
    axis.legend(frameon=False, ncols=3, loc="upper center")
    figures[name.replace(" ", "-")] = figure
  figure, axes = plt.subplots(
    1,
    len(names),
    figsize=(2.8 * len(names), 3.1),
    layout="constrained",
    sharey=True,
    squeeze=False,
  )
  for axis, name in zip(axes[0], names, strict=True):
    source = summary["sources"][name]
    runs = source["trained"] or [source["closed"]]
    for key, style, label in (
      ("prompted", {"color": _plots.RED, "marker": "x"}, "token prompting"),
      (
        "exact",
        {"color": _plots.BLUE, "marker": "o", "facecolors": "none"},
        "the lemma",
      ),
    ):
      truth, values = [], []
      for found in (run["contexts"] for run in runs):
        for row in found.values():
          truth += row["truth"]
          values += row[key]
      axis.scatter(truth, values, s=14, linewidths=0.8, label=label, **style)
    axis.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, zorder=0)
    symbols, rule = name.split()
    axis.set_title(f"{symbols}, {rule.upper()}", fontsize=9)
    axis.set_xlabel("true probability")
  axes[0, 0].set_ylabel("estimated probability")
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, labels, frameon=False, ncols=2, loc="outside lower center"
  )
  figures["sources"] = figure
  return figures


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=summarize,
  report=report,
  draw=draw,
)

if __name__ == "__main__":
  _study.main("configs/markov.py", STUDY)
