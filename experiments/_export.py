"""Host: a trained model as a directory that others read, and its loss curve.

The directory is a Llama as Hugging Face writes it: `config.json`, weights in
bfloat16 in `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`, and
`training.json`, which says how it was made.
"""

import csv
import json
import pathlib
import shutil
from typing import Any

import matplotlib
import ml_dtypes
import numpy as np
import safetensors.numpy
import tokenizers
from matplotlib import pyplot as plt

from byteprob import store
from byteprob.models import config as config_lib
from experiments import _data, _runtime, _tokenizers

_LAYER = {
  "input_layernorm": ("attention_norm", "scale"),
  "self_attn.q_proj": ("attention", "query", "weight"),
  "self_attn.k_proj": ("attention", "key", "weight"),
  "self_attn.v_proj": ("attention", "value", "weight"),
  "self_attn.o_proj": ("attention", "out", "weight"),
  "post_attention_layernorm": ("mlp_norm", "scale"),
  "mlp.gate_proj": ("mlp", "gate", "weight"),
  "mlp.up_proj": ("mlp", "up", "weight"),
  "mlp.down_proj": ("mlp", "down", "weight"),
}
"""Names in a Llama checkpoint's layers, and where our parameters are."""


def round_params(params: Any) -> Any:
  """Parameters as they are after a round trip through bfloat16, float32."""
  if isinstance(params, dict):
    return {key: round_params(value) for key, value in params.items()}
  return np.asarray(params).astype(ml_dtypes.bfloat16).astype(np.float32)


def llama_tensors(
  config: config_lib.DecoderConfig, params: Any
) -> dict[str, np.ndarray]:
  """Parameters under a Llama checkpoint's names, bfloat16, `[out, in]`."""
  paths = {
    "model.embed_tokens": ("embed", "embedding"),
    "model.norm": ("final_norm", "scale"),
  }
  for i in range(len(config.layers)):
    for name, path in _LAYER.items():
      paths[f"model.layers.{i}.{name}"] = (f"layer_{i}", *path)
  tensors = {}
  for name, path in paths.items():
    leaf = params
    for key in path:
      leaf = leaf[key]
    leaf = np.asarray(leaf).astype(ml_dtypes.bfloat16)
    tensors[f"{name}.weight"] = np.ascontiguousarray(leaf)
  return tensors


def llama_config(
  config: config_lib.DecoderConfig, markers: _data.Markers
) -> dict[str, Any]:
  """The `config.json` of a decoder that `train_lm` makes."""
  [rope] = {layer.rope for layer in config.layers}
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": len(config.layers),
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": config.context_length,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": rope.theta,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": markers.start,
    "eos_token_id": markers.end,
    "torch_dtype": "bfloat16",
  }


def tokenizer_config(
  tokenizer: tokenizers.Tokenizer, markers: _data.Markers, context: int
) -> dict[str, Any]:
  """The `tokenizer_config.json` that goes with `tokenizer.json`."""
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": context,
    "clean_up_tokenization_spaces": False,
    "bos_token": tokenizer.id_to_token(markers.start),
    "eos_token": tokenizer.id_to_token(markers.end),
    "additional_special_tokens": list(_tokenizers.FIM_TOKENS),
  }
  if tokenizer.token_to_id("<unk>") is not None:
    config["unk_token"] = "<unk>"
  return config


def export(
  workdir: _runtime.Workdir,
  directory: pathlib.Path,
  config: config_lib.DecoderConfig,
  params: Any,
) -> None:
  """Writes the model of a finished run; every file whole or not at all."""
  directory.mkdir(parents=True, exist_ok=True)
  tokenizer = _data.load_tokenizer(workdir / "tokenizer.json")
  markers = _tokenizers.markers(tokenizer)
  with store.atomic_path(directory / "model.safetensors") as part:
    safetensors.numpy.save_file(
      llama_tensors(config, params), part, metadata={"format": "pt"}
    )
  with store.atomic_path(directory / "tokenizer.json") as part:
    shutil.copyfile(workdir / "tokenizer.json", part)
  for name, value in {
    "config.json": llama_config(config, markers),
    "tokenizer_config.json": tokenizer_config(
      tokenizer, markers, config.context_length
    ),
    "training.json": history(workdir),
  }.items():
    _runtime.write_json(directory / name, value)


def history(workdir: _runtime.Workdir) -> dict[str, Any]:
  """How a finished run went: what was asked for, read, and reached.

  What whoever ran it has to add is in the workdir's `note.txt`.
  """

  def read(name: str) -> dict[str, Any]:
    return json.loads((workdir / name).read_text())

  metrics = workdir.records("metrics.jsonl")
  environment = read("env.json")
  note = workdir / "note.txt"
  return {
    "made_by": "experiments/train_lm.py",
    "note": note.read_text().strip() if note.exists() else "",
    "config": _public(read("config.json")),
    "data": {
      "python": environment["versions"]["python"],
      **read("data.json"),
    },
    "steps": metrics[-1]["step"],
    "tokens": metrics[-1]["tokens"],
    "seconds": round(sum(record["seconds"] for record in metrics)),
    "result": read("summary.json"),
    "versions": environment["versions"],
    "machine": environment["machine"],
    "cpus": environment["cpus"],
    "devices": environment["devices"],
  }


def _public(config: dict[str, Any]) -> dict[str, Any]:
  """A configuration in which files and directories go by their names alone."""

  def name(path: str) -> str:
    return pathlib.PurePath(path).name

  return {
    **config,
    "root": name(config["root"]),
    "more": [name(path) for path in config["more"]],
    "without": name(config["without"]),
  }


def write_results(workdir: _runtime.Workdir, directory: pathlib.Path) -> None:
  """Writes the loss curve as `loss.csv` and `loss.png`, and the history."""
  valid = {r["step"]: r["valid"] for r in workdir.records("valid.jsonl")}
  with (
    store.atomic_path(directory / "loss.csv") as part,
    part.open("w", newline="") as file,
  ):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", "tokens", "train", "valid"])
    for record in workdir.records("metrics.jsonl"):
      loss = valid.get(record["step"])
      writer.writerow(
        [
          record["step"],
          record["tokens"],
          f"{record['loss']:.4f}",
          "" if loss is None else f"{loss:.4f}",
        ]
      )
  with store.atomic_path(directory / "loss.png") as part:
    shutil.copyfile(workdir / "figures" / "loss.png", part)
  _runtime.write_json(directory / "training.json", history(workdir))


def draw(workdir: _runtime.Workdir) -> None:
  """Draws `figures/loss.png` from the records of a run, without a device."""
  matplotlib.use("Agg")
  metrics = workdir.records("metrics.jsonl")
  valid = workdir.records("valid.jsonl")
  config = json.loads((workdir / "config.json").read_text())
  short = config["short"]
  figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")

  def millions(records: list[dict[str, Any]]) -> list[float]:
    return [record["tokens"] / 1e6 for record in records]

  axes.plot(
    millions(metrics),
    [r["loss"] for r in metrics],
    color="0.6",
    linewidth=0.8,
    label="training",
  )
  axes.plot(
    millions(valid),
    [r["valid"] for r in valid],
    color="C0",
    marker="o",
    markersize=3,
    label="held-out rows, left to right",
  )
  switch = short["steps"] * short["batch"] * short["context"] / 1e6
  axes.axvline(switch, color="0.8", linewidth=0.8, linestyle="--")
  axes.annotate(
    f" rows of {config['full']['context']}",
    (switch, 0.97),
    xycoords=("data", "axes fraction"),
    fontsize="small",
    color="0.4",
    va="top",
  )
  axes.set_xlabel("tokens read (millions)")
  axes.set_ylabel("nats per token")
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False)
  with store.atomic_path(workdir / "figures" / "loss.png") as part:
    figure.savefig(part, format="png", dpi=150)
  plt.close(figure)
