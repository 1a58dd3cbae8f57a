"""Launchers: what they say they would run, and that they run just that."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("[!_]*.sh"))

JOB = [
  "experiments.bias",
  "--workdir=gs://bucket/runs/bias",
  "--config.texts=('code', \"it's\")",
  "--config.model=a $HOME `b` \\ & *",
  "--config.dtype=",
]
"""With everything that a shell would change."""

SETTINGS = {
  "local.sh": ["--processes=2"],
  "slurm.sh": ["--nodes=2", "--gpus=8", "--options=--exclusive -C h100"],
  "tpu_pod.sh": ["--name=bias", "--zone=us-east5-a", "--type=v5p-16"],
  "xpk.sh": ["--name=bias", "--cluster=mine", "--tpu_type=v5p-16"],
}


def launch(
  script: str, *words: str, path: pathlib.Path | None = None, **env: str
) -> subprocess.CompletedProcess:
  """Runs a launcher, with fake tools first on the path."""
  clean = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCH_")}
  if path:
    clean["PATH"] = f"{path}{os.pathsep}{clean['PATH']}"
  return subprocess.run(
    [LAUNCH / script, *words],
    capture_output=True,
    text=True,
    env=clean | env,
    timeout=60,
  )


def commands(script: str, *words: str, **env: str) -> list[list[str]]:
  """What a dry run prints, as a shell would read it."""
  done = launch(script, "--dry_run", *words, "--", *JOB, **env)
  assert done.returncode == 0, done.stderr
  lines = [line for line in done.stdout.splitlines() if line[0] != "#"]
  return [shlex.split(line) for line in lines]


def value(words: list[str], flag: str) -> str:
  """The value of a flag that is there once."""
  (found,) = [w for w in words if w.startswith(f"{flag}=")]
  return found.partition("=")[2]


def test_shellcheck():
  shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
  done = subprocess.run(
    [shellcheck, "-x", "-P", LAUNCH.parent, *LAUNCH.glob("*.sh")],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


def test_local():
  cd, *processes, wait = commands("local.sh", "--processes=2")
  assert cd == ["cd", str(LAUNCH.parent)] and wait == ["wait"]
  for index, words in enumerate(processes):
    assert words == [
      *[".venv/bin/python", "-m", *JOB],
      *["--coordinator=localhost:8476", "--num_processes=2"],
      *[f"--process_id={index}", "&"],
    ]
  (_, alone) = commands("local.sh", LAUNCH_PYTHON="/a b/python")
  assert alone == ["/a b/python", "-m", *JOB]


def test_slurm():
  ((sbatch, *words),) = commands("slurm.sh", *SETTINGS["slurm.sh"])
  assert sbatch == "sbatch"
  assert {"--nodes=2", "--gpus-per-node=8", "--ntasks-per-node=8"} < set(words)
  assert {"--requeue", "--exclusive", "-C", "h100"} < set(words)
  assert shlex.split(value(words, "--wrap")) == [
    *["srun", "--kill-on-bad-exit=1", ".venv/bin/python", "-m"],
    *JOB,
    "--distributed",
  ]
  ((_, *words),) = commands("slurm.sh", LAUNCH_NODES="3")
  assert {"--nodes=3", "--ntasks-per-node=1"} < set(words)
  assert not any("gpus" in word for word in words)


def test_xpk():
  ((*xpk, command),) = commands("xpk.sh", *SETTINGS["xpk.sh"], "--slices=2")
  assert xpk[:3] == ["xpk", "workload", "create"]
  assert {"--num-slices=2", "--max-restarts=20"} < set(xpk)
  install, _, job = command.removeprefix("--command=").partition(" && ")
  assert shlex.split(install)[-1] == ".[tpu,gcs]"
  assert shlex.split(job) == ["python3", "-m", *JOB, "--distributed"]
  ((*xpk, command),) = commands("xpk.sh", *SETTINGS["xpk.sh"], "--image=made")
  assert "--docker-image=made" in xpk and "pip" not in command


def test_tpu_pod():
  found = commands(
    "tpu_pod.sh", *SETTINGS["tpu_pod.sh"], "--spot=yes", "--fetch=here"
  )
  wanted = "create describe bundle scp ssh ssh delete create mkdir rsync delete"
  for words, verb in zip(found, wanted.split(), strict=True):
    assert verb in words
  create, *_, install, job = found[:6]
  assert {"--spot", "--accelerator-type=v5p-16"} < set(create)
  assert "--runtime-version=v2-alpha-tpuv5" in create
  assert "--worker=all" in install and "--worker=all" in job
  assert value(install, "--command").endswith("install -q -e '.[tpu,gcs]'")
  place, _, own = value(job, "--command").partition(" && ")
  assert place == "cd byteprob"
  assert shlex.split(own) == [".venv/bin/python", "-m", *JOB, "--distributed"]
  assert found[9][-2:] == ["gs://bucket/runs/bias", "here"]
  kept = commands("tpu_pod.sh", *SETTINGS["tpu_pod.sh"], "--keep=yes")
  assert len(kept) == 8


@pytest.mark.parametrize(
  "file", ["docs/scaling.md", *(f"launch/{script}" for script in SCRIPTS)]
)
def test_what_is_told_of_can_be_run(file):
  text = (LAUNCH.parent / file).read_text()
  told = re.findall(
    r"^(?:#   )?launch/(\w+\.sh) ((?:.*\\\n)*.*)", text, re.MULTILINE
  )
  assert told
  for script, words in told:
    words = re.sub(r"\\\n#?", " ", words).replace("[--dry_run]", "")
    optional = shlex.split(re.sub(r"[][]", "", words))
    done = launch(script, "--dry_run", *optional)
    assert done.returncode == 0 and "experiments.bias" in done.stdout, words


@pytest.mark.parametrize(
  ("script", "words", "said"),
  [
    ("slurm.sh", ["--", *JOB], "say --nodes=... or set LAUNCH_NODES"),
    ("xpk.sh", ["--name=a", "--", *JOB], "say --cluster=... or set"),
    ("tpu_pod.sh", ["--name=a", "--", *JOB], "say --zone=... or set"),
    ("local.sh", ["--processes=two", "--", *JOB], "a whole number, not 'two'"),
    ("local.sh", ["--processes=0", "--", *JOB], "must be at least 1, not 0"),
    ("local.sh", ["--proceses=2", "--", *JOB], "there is no setting --procese"),
    ("local.sh", [], "nothing to run: end with -- experiments.bias"),
    ("local.sh", ["--"], "nothing to run"),
    ("local.sh", JOB, "experiments.bias is not of the form --name=value"),
    ("local.sh", ["--", "python", "-m"], "as experiments.bias, not python"),
    (
      "tpu_pod.sh",
      [*SETTINGS["tpu_pod.sh"], "--", "experiments.bias", "--workdir=runs/a"],
      "the machines share no disk: give the job --workdir=gs://BUCKET/RUN",
    ),
  ],
)
def test_one_clear_sentence(script, words, said):
  done = launch(script, *words)
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and said in line


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_setting(script):
  done = launch(script, "--help")
  assert done.returncode == 0 and "set -eu" not in done.stdout
  known = launch(script, "--none=1").stderr.rpartition(":")[2].split()
  told = re.findall(r"^  ([a-z_][a-z_, ]*?)(?:  |$)", done.stdout, re.MULTILINE)
  assert [name for line in told for name in line.split(", ")] == known


TOOL = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
name, *words = pathlib.Path(sys.argv[0]).name, *sys.argv[1:]
with (here / "calls").open("a") as file:
  file.write(json.dumps([name, *words]) + "\\n")
"""
"""A tool that does nothing but note how it was called."""

GCLOUD = (
  TOOL
  + """
slice, taken = here / "slice", here / "taken"
if "create" in words:
  slice.touch(exist_ok=False)
elif "delete" in words:
  slice.unlink()
elif not slice.exists():
  sys.exit(1)
elif "describe" in words:
  gone = taken.exists() and taken.read_text() == "now"
  if words[2] == "tpu-vm":
    print("PREEMPTED" if gone else "READY")
  else:
    print("SUSPENDED" if gone else "ACTIVE")
elif "ssh" in words and "experiments.bias" in words[-1]:
  if (here / "mistaken").exists():
    sys.exit(3)
  if not taken.exists():
    taken.write_text("now")
    sys.exit(255)
  shell = words[-1].removeprefix("--command=")
  sys.exit(subprocess.run(["bash", "-c", shell], cwd=here).returncode)
if "delete" in words and taken.exists():
  taken.write_text("once")
"""
)


def install(directory: pathlib.Path, **tools: str) -> pathlib.Path:
  """Writes tools, and the Python of a worker."""
  python = directory / "byteprob" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  files = {directory / name: text for name, text in tools.items()}
  for path, text in (files | {python: TOOL}).items():
    path.write_text(text)
    path.chmod(0o755)
  return python


def calls(directory: pathlib.Path) -> list[list[str]]:
  """How the tools of a directory were called."""
  return list(map(json.loads, (directory / "calls").read_text().splitlines()))


def verbs(found: list[list[str]]) -> list[str]:
  """The calls of gcloud that change something."""
  known = ("create", "delete", "scp", "ssh")
  return [word for words in found for word in words[3:5] if word in known]


def test_a_slice_that_is_taken_away_is_made_again(tmp_path):
  python = install(tmp_path, gcloud=GCLOUD)
  words = [*SETTINGS["tpu_pod.sh"], "--poll=0", "--", *JOB]
  done = launch("tpu_pod.sh", *words, path=tmp_path)
  assert done.returncode == 0, done.stderr
  assert "taken away; making another (19 more)" in done.stderr
  once = ["scp", "ssh", "ssh", "delete"]
  assert verbs(calls(tmp_path)) == ["create", *once, "create", *once]
  # The worker's own Python has got the very words.
  (got,) = calls(python.parent)
  assert got == ["python", "-m", *JOB, "--distributed"]
  assert not (tmp_path / "slice").exists()


def test_a_slice_that_is_never_left_alone(tmp_path):
  install(tmp_path, gcloud=GCLOUD.replace("not taken.exists()", "True"))
  words = [*SETTINGS["tpu_pod.sh"], "--poll=0", "--retries=1", "--", *JOB]
  done = launch("tpu_pod.sh", *words, path=tmp_path)
  assert done.returncode == 1
  assert "taken away 2 times; run the same command again" in done.stderr
  assert verbs(calls(tmp_path)).count("create") == 2
  assert not (tmp_path / "slice").exists()


def test_a_job_that_fails_is_not_tried_again_and_the_slice_stays(tmp_path):
  install(tmp_path, gcloud=GCLOUD)
  (tmp_path / "mistaken").touch()
  # It was left by an earlier start, and is taken up.
  (tmp_path / "slice").touch()
  words = [*SETTINGS["tpu_pod.sh"], "--poll=0", "--", *JOB]
  done = launch("tpu_pod.sh", *words, path=tmp_path)
  assert done.returncode == 3 and "the job failed" in done.stderr
  assert verbs(calls(tmp_path)) == ["scp", "ssh", "ssh"]
  assert (tmp_path / "slice").exists()


@pytest.mark.parametrize(
  ("script", "tool"), [("slurm.sh", "sbatch"), ("xpk.sh", "xpk")]
)
def test_what_is_run_is_what_the_dry_run_prints(tmp_path, script, tool):
  install(tmp_path, **{tool: TOOL})
  done = launch(script, *SETTINGS[script], "--", *JOB, path=tmp_path)
  assert done.returncode == 0, done.stderr
  assert calls(tmp_path) == commands(script, *SETTINGS[script])


@pytest.mark.parametrize("count", [1, 3])
def test_local_processes(tmp_path, count):
  python = install(tmp_path)
  words = [f"--python={python}", f"--processes={count}"]
  done = launch("local.sh", *words, "--", *JOB)
  assert done.returncode == 0, done.stderr
  _, *shown = commands("local.sh", *words)
  wanted = [["python", *words[1:]] for words in shown if words != ["wait"]]
  found = sorted(calls(python.parent))
  assert found == [[word for word in w if word != "&"] for w in wanted]


def test_when_one_process_fails_all_end(tmp_path):
  python = install(tmp_path)
  python.write_text(
    TOOL + "if words[-1].endswith('=1'): sys.exit(7)\n"
    "import time; time.sleep(100)\n"
  )
  words = [f"--python={python}", "--processes=3", "--", *JOB]
  done = launch("local.sh", *words)
  # And not after the others, for whom `launch` would not wait.
  assert done.returncode == 7
