"""Security: nothing is unpickled, no file's text is run, no name leaves its folder, no secret is written."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from faults.harness import TINY, call
from support.command_line import ROOT, compose

import train
from analysis.records import collect
from core.console import log
from core.errors import UserError
from experiments.record import RECORD, SCHEMA, read_record, write_record
from training.trainer import Trainer

CODE = (
    *(
        "adapters",
        "analysis",
        "benchmarks",
        "core",
        "experiments",
        "hydra_plugins",
        "methods",
        "models",
        "scripts",
        "serving",
    ),
    *("tasks", "training", "train.py"),
)
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "compile", "__import__"}
SETTINGS = {"trust_remote_code", "allow_pickle", "shell"}
SECRETS = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567", "HF_TOKEN": "hf_" + "S3cr3tS3cr3t" * 3}


def sources() -> dict[str, str]:
    """Every Python file of the project except its tests, and the code of its notebooks."""
    files = [file for name in CODE for file in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))]
    found = {str(file.relative_to(ROOT)): file.read_text() for file in files}
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text())["cells"]
        lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
        found[file.name] = "\n".join(line for line in lines if not line.startswith("%"))  # IPython's
    return found


def suspicious(text: str) -> set[str]:
    """What unpickles, runs text, or would have a library do so."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found |= {name.partition(".")[0] for name in names} & UNPICKLERS
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            bare = called in RUNNERS or called in ("torch.load", "os.system", "os.popen", "runpy.run_path")
            unsafe = re.fullmatch(r"(yaml\.(?!safe_|dump).*load.*|pd\.read_pickle|.*\.load_module)", called)
            found |= {called} if bare or unsafe else set()
            found |= {keyword.arg for keyword in node.keywords if keyword.arg in SETTINGS}
    return found


@pytest.mark.parametrize("name", sources())
def test_no_source_unpickles_or_runs_text(name):
    assert suspicious(sources()[name]) == set()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import pickle", "pickle"),
        ("from dill import loads", "dill"),
        ("torch.load(file)", "torch.load"),
        ("eval(text)", "eval"),
        ("yaml.load(text, yaml.Loader)", "yaml.load"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code"),
        ("subprocess.run(text, shell=True)", "shell"),
    ],
)
def test_the_source_check_finds_unpickling_and_running_text(text, what):
    assert suspicious(text) == {what}


def test_a_whole_run_unpickles_nothing(tmp_path):
    """A hook of Python reports every class or function that an unpickler looks up."""
    hook = (
        "import os, runpy, sys\n"
        "sys.addaudithook(lambda event, _: os._exit(77) if event == 'pickle.find_class' else None)\n"
        "sys.argv, sys.path[0] = sys.argv[1:], os.path.dirname(sys.argv[1])\n"
        "{first}"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    (tmp_path / "watch.py").write_text(hook.format(first=""))
    ended = call(tmp_path, *TINY, "method=qlora", within=(tmp_path / "watch.py",))
    assert ended.status == 0, ended.err
    unpickling = "import pickle; pickle.loads(pickle.dumps(os.getcwd))\n"
    (tmp_path / "watch.py").write_text(hook.format(first=unpickling))
    assert call(tmp_path, within=(tmp_path / "watch.py",)).status == 77


def targets(value: object) -> set[str]:
    """Every `_target_` within a YAML's value, and whatever else Hydra or logging would build from one."""
    if isinstance(value, list):
        return set().union(*map(targets, value))
    if not isinstance(value, dict):
        return set()
    named = {str(value[key]) for key in ("_target_", "()", "callbacks", "searchpath") if key in value}
    return named.union(*map(targets, value.values()))


def test_only_launcher_yaml_files_name_code():
    found = set().union(*(targets(yaml.safe_load(file.read_text())) for file in (ROOT / "conf").rglob("*.yaml")))
    assert found == {"hydra_plugins.job_launchers.SlurmLauncher", "hydra_plugins.job_launchers.LocalLauncher"}


@pytest.mark.parametrize("key", ["method", "task", "data", "trainer", "logger"])
def test_a_setting_that_names_code_is_refused(key):
    with pytest.raises(UserError, match="unknown setting"):
        compose(f"+{key}._target_=os.system")


@pytest.mark.parametrize("name", ["../up", "..", "/etc", "a/b", ""])
def test_a_records_experiment_cannot_name_another_folder(name, tmp_path, capsys):
    record = {"schema": SCHEMA, "status": "complete", "config": {}, "config_hash": "", "data": "hub"}
    record["experiment"] = name
    write_record(tmp_path / "runs/x", record)
    assert collect(tmp_path / "runs", into=tmp_path / "a/records") == []
    assert "cannot name a folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.rglob("*.json")] == [RECORD]


@pytest.fixture
def with_secrets(monkeypatch):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_a_setting_is_refused(name, with_secrets):
    with pytest.raises(UserError, match=f"a setting holds {name}") as caught:
        compose("logger.project=${oc.env:" + name + "}")
    assert SECRETS[name] not in str(caught.value)


def test_no_secret_appears_in_a_runs_files_or_messages(with_secrets, tmp_path, monkeypatch, capsys):
    """Not even where a library's error message contains it."""
    run = compose(*TINY, f"output_dir={tmp_path}")

    def broken(trainer, indices):
        raise OSError(f"refused: {SECRETS['HF_TOKEN']}")

    monkeypatch.setattr(Trainer, "train_step", broken)
    with pytest.raises(OSError, match="refused"):
        train.train(run)
    assert read_record(run.folder)["reason"] == "OSError: refused: <HF_TOKEN>"
    log.error(f"{SECRETS['WANDB_API_KEY']}")
    said = "".join(capsys.readouterr())
    assert "error: <WANDB_API_KEY>" in said
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in SECRETS.values():
        assert secret not in said
        assert secret.encode() not in written


def test_every_requirement_is_pinned_to_the_version_in_the_constraints():
    pinned = pins(ROOT / "constraints.txt")
    for file in ROOT.glob("requirements*.txt"):
        for name, version in pins(file).items():
            assert version, f"{file.name}: {name} is not pinned"
            if file.name != "requirements-demo.txt":  # installed with --no-deps, on its own
                assert pinned[name] == version, name


def pins(file: Path) -> dict[str, str]:
    """Version by normalized name; empty where there is none."""
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    parts = [line.partition("==") for line in lines if line and not line.startswith("-")]
    return {name.lower().replace("_", "-"): version for name, _, version in parts}
