"""A mistake on a command line or in a YAML file, as one sentence: errors of Hydra and OmegaConf in the user's terms."""

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.errors import UserError, reason, unknown
from core.habits import TEXTS, quoted, right_name


def sentence(error: Exception) -> str:
    """One line for an error of ours, Hydra's or OmegaConf's: that of the first rule that knows it."""
    return next(text for rule in RULES if (text := rule(error)) is not None)


def _missing_file(error: Exception) -> str | None:
    if not isinstance(error, MissingConfigException):
        return None
    if str(error).startswith("Cannot find primary config"):
        return f"there is no {error.missing_cfg_file}.yaml in conf/, --config-path or --config-dir"
    group, slash, name = (error.missing_cfg_file or "").rpartition("/")
    if not slash:
        return None
    what = unknown(group, name, error.options or [])
    own = f"a new one is a file conf/experiment/{name}.yaml"
    return what if group != "experiment" else f"{what} Or {own}" if what.endswith("?") else f"{what}; {own}"


def _odd_word(error: Exception) -> str | None:
    """A word that Hydra cannot parse."""
    if not isinstance(error, OverrideParseException):
        return None
    word = error.override if error.override.isprintable() else ascii(error.override)
    if "=" in word:
        name, _, value = word.partition("=")
        plain = value.strip("\"'") or "so (to say)"
        return f"{word}: put a value with spaces, commas or brackets in quotes, as in {quoted(f'{name}={plain}')}"
    return f"{word}: a setting is written with =, as in method=lora" if re.fullmatch(r"[\w./@-]+", word) else None


def _profile_in_experiment(error: Exception) -> str | None:
    wrong = "Could not override 'profile'" in str(error)
    return "an experiment cannot choose the profile: give profile=offline on the command line" if wrong else None


def _ours(error: Exception) -> str | None:
    """An error of ours that Hydra wraps."""
    is_wrapped = not isinstance(error, UserError) and isinstance(error.__cause__, UserError)
    return str(error.__cause__) if is_wrapped else None


def _in_file(error: Exception) -> str | None:
    """A mistake in `GROUP/NAME.yaml`. Without `# @package`, Hydra puts its content under GROUP."""
    file = re.match(r"In '(\w+)/(.+?)': (.*)", str(error), flags=re.S)
    if not file:
        return None
    group, name, why = file.groups()
    within = error.__context__
    under_group = re.match(rf"Could not override '\S+@{group}\.", why) or getattr(within, "full_key", None) == group
    if under_group and group in ("experiment", "profile"):
        return f"{group}/{name}.yaml lacks its first line: '# @package _global_'"
    return (
        f"{group}/{name}.yaml: {sentence(within)}" if isinstance(within, OmegaConfBaseException) else _one_line(error)
    )


def _file_system(error: Exception) -> str | None:
    """An error of the operating system, with the file that it is about."""
    if not (isinstance(error, OSError) and error.filename and error.strerror):
        return None
    return f"{error.filename}: {reason(error)}"


def _several_runs(error: Exception) -> str | None:
    """`seed=0,1` without -m."""
    ambiguous = re.match(r"Ambiguous value for argument '(.+?)'", _one_line(_cause(error)))
    if not ambiguous:
        return None
    name, _, values = ambiguous[1].partition("=")
    if place := right_name(name, {}):
        return f"unknown setting '{name}'; write {place}={values}, and add -m to train them all"
    is_text = name in TEXTS
    return f"{ambiguous[1]} names several runs: add -m to train them all" + (
        f"; as one text it is written {quoted(ambiguous[1])}" if is_text else ""
    )


def _list(error: Exception) -> str | None:
    """`seed=[0,1]`."""
    key = getattr(_cause(error), "full_key", None)
    if key and (texts := re.match(r"Cannot convert 'list' to string: '\[(.+)\]'", _one_line(_cause(error)))):
        one = "|".join(re.sub(r"[' ]", "", texts[1]).split(","))
        return f"{key}: it takes one text, not a list; a pattern names several, as in {quoted(f'{key}={one}')}"
    several = re.match(r"Value '\[(.+)\]' of type 'list' could not be converted", _one_line(_cause(error)))
    if not (key and several):
        return None
    values = several[1].replace(", ", ",").replace("'", "")
    return f"{key}: it takes one value; for several runs give {key}={values} without brackets, and -m"


def _kind(error: Exception) -> str | None:
    """`method.rank=four`."""
    key = getattr(_cause(error), "full_key", None)
    text = _one_line(_cause(error))
    if key and re.match(r"field '.*' is not Optional", text):
        return f"{key} cannot be null: give a value, or leave it out"
    wrong = re.match(
        r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (Integer|Float|bool)", text
    )
    if not (key and wrong):
        return None
    wanted = {"Integer": "a whole number", "Float": "a number"}.get(wrong[2], "true or false")
    return f"{key} is '{wrong[1]}'; give {wanted}"


def _unknown_setting(error: Exception) -> str | None:
    cause = _cause(error)
    missing = re.match(r"Key '(.+?)' (is )?not in", _one_line(cause))
    if not missing:
        return None
    name, parent = getattr(cause, "full_key", None) or missing[1], getattr(cause, "parent_node", None)
    settings: Any = OmegaConf.to_container(parent, resolve=False) if isinstance(parent, DictConfig) else {}
    if place := right_name(name, settings):
        return f"unknown setting '{name}'; write {place}"
    own = "; a launcher with settings of its own is a file conf/hydra/launcher/NAME.yaml, chosen by hydra/launcher=NAME"
    is_launchers = name.startswith("hydra.launcher.")
    return unknown("setting", name, [str(name) for name in parent or []]) + (own if is_launchers else "")


def _other(error: Exception) -> str:
    """Its own message, with the setting's name."""
    cause = _cause(error)
    key, text = getattr(cause, "full_key", None), _one_line(cause)
    return f"{key}: {text}" if key and "Could not override" not in text else text


RULES: tuple[Callable[[Exception], str | None], ...] = (
    _missing_file,
    _odd_word,
    _profile_in_experiment,
    _ours,
    _in_file,
    _file_system,
    _several_runs,
    _list,
    _kind,
    _unknown_setting,
    _other,
)


def _cause(error: Exception) -> Exception:
    """OmegaConf's error, if Hydra wraps one."""
    return error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error


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
        flag = re.search(r"unrecognized arguments: (?:.*\s)?(--?(\w[\w-]*))(?:[ =]([^-\s]\S*))?", message)
        if flag and not difflib.get_close_matches(flag[1], parser._option_string_actions):
            name = flag[2].replace("-", "_")
            raise UserError(f"settings have no dashes: write {right_name(name, {}) or name}={flag[3] or 'VALUE'}")
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
