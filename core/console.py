"""What a command prints on its error stream, and how an error becomes one sentence."""

import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from core.errors import UserError, unknown
from core.habits import TEXTS, quoted, right_name
from core.redact import redacted


class Console(logging.Handler):
    """Logs `error: ...` and `warning: ...` to the error stream, without secrets, even in a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return os.environ.get("RANK", "0") == "0"  # under `accelerate launch` all processes meet the same mistake

    def format(self, record: logging.LogRecord) -> str:
        text = redacted(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the reader is gone, which is no reason to stop
            print(self.format(record), file=sys.stderr, flush=True)


log = logging.getLogger("peft_glue")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(Console())


def say(text: str, bar: tqdm | None = None) -> None:
    """Prints a line on the output stream, above the progress bar. A reader that is gone, as in `| head`, stops nothing."""
    with suppress(OSError):
        try:
            (bar or tqdm).write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # else Python would fail again at its end, over what is left to write
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `1 min 5 s` or `45 s`; rounded up."""
    if seconds < 600:
        minutes, rest = divmod(math.ceil(seconds), 60)
        return " ".join([f"{minutes} min"] * (minutes > 0) + [f"{rest} s"] * (rest > 0 or not minutes))
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def counted(number: int, noun: str) -> str:
    """`1 run`, or `1,200 runs`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def sentence(error: Exception) -> str:
    """One line for an error of ours, Hydra's or OmegaConf's."""
    if isinstance(error, MissingConfigException) and str(error).startswith("Cannot find primary config"):
        return f"there is no {error.missing_cfg_file}.yaml in conf/, --config-path or --config-dir"
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        kind, _, name = (error.missing_cfg_file or "").rpartition("/")
        own = f"; a new one is a file conf/experiment/{name}.yaml" if kind == "experiment" else ""
        return unknown(kind, name, error.options or []) + own
    if isinstance(error, OverrideParseException) and "=" in error.override:
        word = error.override if error.override.isprintable() else ascii(error.override)
        return f"{word}: put a value with spaces, commas or brackets in quotes, as in 'note=\"so (to say)\"'"
    if isinstance(error, OverrideParseException) and re.fullmatch(r"[\w./@-]+", error.override):
        return f"{error.override}: a setting is written with =, as in method=lora"
    if "Could not override 'profile'" in str(error):
        return "an experiment cannot choose the profile: give profile=offline on the command line"
    if not isinstance(error, UserError) and isinstance(error.__cause__, UserError):  # Hydra wraps those within it
        return str(error.__cause__)
    if file := re.match(r"In '(\w+)/(.+?)': ", str(error)):
        return _in_file(error, file[1], file[2])
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, parent = getattr(cause, "full_key", None), getattr(cause, "parent_node", None)
    text = _one_line(cause)
    if ambiguous := re.match(r"Ambiguous value for argument '(.+?)'", text):
        text = f"; as one text it is written {quoted(ambiguous[1])}" if ambiguous[1].partition("=")[0] in TEXTS else ""
        return f"{ambiguous[1]} names several runs: add -m to train them all{text}"
    if key and (several := re.match(r"Value '\[(.+)\]' of type 'list' could not be converted", text)):
        values = several[1].replace(", ", ",").replace("'", "")
        return f"{key}: it takes one value; for several runs give {key}={values} without brackets, and -m"
    if missing := re.match(r"Key '(.+?)' (is )?not in", text):
        name = key or missing[1]
        settings: Any = OmegaConf.to_container(parent, resolve=False) if isinstance(parent, DictConfig) else {}
        if place := right_name(name, settings):
            return f"unknown setting '{name}'; write {place}"
        own = "; a launcher with settings of its own is a file conf/hydra/launcher/NAME.yaml, chosen by hydra/launcher=NAME"
        is_launchers = name.startswith("hydra.launcher.")
        return unknown("setting", name, [str(name) for name in parent or []]) + (own if is_launchers else "")
    return f"{key}: {text}" if key and "Could not override" not in text else text


def _in_file(error: Exception, group: str, name: str) -> str:
    """The sentence for a mistake in `GROUP/NAME.yaml`. Without `# @package`, Hydra puts all that is in it under GROUP."""
    why = str(error).partition("': ")[2]
    under_group = re.match(rf"Could not override '\S+@{group}\.", why) or (
        getattr(error.__context__, "full_key", None) == group
    )
    if under_group and group in ("experiment", "profile"):
        return f"{group}/{name}.yaml lacks its first line: '# @package _global_'"
    if isinstance(error.__context__, OmegaConfBaseException):
        return f"{group}/{name}.yaml: {sentence(error.__context__)}"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    """The message on one line, without the lines in which OmegaConf names its own types."""
    lines = [line.strip() for line in str(error).splitlines() if not re.match(r"\s*(full_key|\w+_type)\W", line)]
    return "; ".join(line for line in lines if line)


@contextmanager
def composing() -> Iterator[None]:
    """Turns errors of other libraries, raised while Hydra reads overrides and YAML, into a UserError."""
    try:
        yield
    except RecursionError as error:
        raise UserError("the settings include themselves, or are nested too deeply") from error
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"the settings cannot be read: {sentence(error)}") from error


def require_flags() -> None:
    """Raises a UserError for flags at which Hydra would print its whole usage."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; flags stand before all overrides, --hydra-help lists them")

    parser.error = refuse  # type: ignore[method-assign]  # argparse has no other way to keep it from exiting
    chosen = parser.parse_args()
    if (chosen.cfg or chosen.help) and chosen.multirun:
        flag = "--cfg" if chosen.cfg else "--help"
        raise UserError(f"{flag} shows the settings of one run: leave out -m, and give each setting one value")
    asked = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(chosen, name)]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(f'--{name}'.replace('_', '-') for name in asked)}: give one of them at a time")
    if chosen.package and not chosen.cfg:
        raise UserError("--package shows a part of --cfg: write --cfg job --package trainer")
    if chosen.resolve and not (chosen.cfg or chosen.help):
        raise UserError("--resolve fills in what --cfg shows: write --cfg job --resolve")
    if chosen.multirun and (mode := [word for word in chosen.overrides if word.startswith("hydra.mode=")]):
        raise UserError(f"{mode[0]}: -m is a sweep: leave out one of them")
    if chosen.hydra_help and chosen.overrides:
        raise UserError(f"--hydra-help takes no settings: leave out {' '.join(chosen.overrides)}")
    if chosen.experimental_rerun:
        raise UserError(
            "--experimental-rerun reads a pickle, which this project never does: give the run's overrides again"
        )
