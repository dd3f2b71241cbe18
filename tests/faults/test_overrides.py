"""Bad values for every setting, on the command line and in a YAML file: each runs or is refused."""

import dataclasses
import re
from collections.abc import Iterator
from typing import get_type_hints

import pytest
from hydra.core.config_store import ConfigStore
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.config import RunConfig
from faults.inputs import train_in, tries

# large numbers for these only cost time or memory; a run that asks for much is not a fault
SLOW = ("data.train_size", "data.eval_size", "task.max_length", "method.rank", "method.bottleneck")
ARCHITECTURE = (
    *("model_type vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size").split(),
    *(
        "max_position_embeddings type_vocab_size layer_norm_eps pad_token_id hidden_act dtype id2label is_decoder"
    ).split(),
    *("hidden_dropout_prob classifier_dropout initializer_range attn_implementation problem_type return_dict").split(),
)


def keys(config: type, path: str = "") -> Iterator[str]:
    for name, kind in get_type_hints(config).items():
        if dataclasses.is_dataclass(kind) and name != "method":
            yield from keys(kind, f"{name}.")
        else:
            yield path + name


METHODS = [name.removesuffix(".yaml") for name in ConfigStore.instance().list("schema/method")]
SETTINGS = [
    *((key,) for key in keys(RunConfig) if key != "logger.name"),  # whose other values take seconds
    *((f"+backbone.architecture.{key}",) for key in ARCHITECTURE),
    *(
        (f"method.{key}", f"method={method}")
        for method in METHODS
        for key in ConfigStore.instance().load(f"schema/method/{method}.yaml").node
    ),
]
GRAMMAR = r"""
    '' "" ' ' [] [1,2] {} {a:1} {a:{b:2}} {a:1 [1 'a ( ) , : = a=b=c a,b a:b \ \\ / // -- - + ~ * [ (.+)+$ \d+ $ % @ ! # & | <
    ${seed} ${nope} ${task} ${data.name} ${oc.env:NOPE} ${pick:cola,{rte:1}} ${share:8,7} ${ } ??? null true false yes
    range(3) choice(1,2) sort(1) int(x) glob(*) 'a\nb' "a\tb" ü 日本 🙂 a/b ../x . .. ... 1_000 0x10 1e 1.2.3 -0 1e3 cola lora
""".split()
NUMBERS = st.sampled_from("0 1 2 3 -1 7 0.5 1e-300 1e300 -1e300 nan inf -inf".split()) | st.integers().map(str)
HUGE = st.sampled_from("999999999999 99999999999999999999999999".split())
TEXT = st.text(st.characters(exclude_characters="/\0"), max_size=8)
VALUES = st.sampled_from(GRAMMAR) | NUMBERS | HUGE | TEXT | st.floats().map(str)


@st.composite
def words(draw: st.DrawFn) -> tuple[str, ...]:
    """One or two settings, rarely with an odd prefix, and a value for each."""
    chosen = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2)))):
        key, *others = draw(st.sampled_from(SETTINGS))
        prefix = draw(st.sampled_from(("", "", "", "", "", "+", "++", "~")))
        value = draw(VALUES)
        if key == "output_dir" and re.search(r"[/~$]|\.\.", value):  # nothing is written outside of the folder
            continue
        if key in SLOW and re.fullmatch(r"[\d_]{5,}", value):
            value = value[:4]
        chosen += [*others, prefix + key.lstrip("+" * bool(prefix)) + "=" + value]
    return tuple(chosen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs") / "x"


def test_an_override_runs_or_is_refused(folder, is_long, tally):
    tried = []

    @tries(10, 600, is_long)
    @given(words())
    @example(("experiment=7",))
    @example(("experiment=[1,2]",))
    @example(("backbone.learning_rates=${seed}",))
    @example(("+backbone.architecture.hidden_act=foo",))
    @example(("+backbone.architecture.problem_type=nan",))
    @example(("backbone.architecture.num_hidden_layers=999999999999",))
    @example(("backbone.architecture.hidden_size=100000",))
    @example(("method=dora", "method.alpha=1e300"))
    @example(("method=vera", "method.d_initial=1e300"))
    @example(("data.eval_size=999999999999",))
    @example(("data.seed=-1",))
    @example(("note=a\x1d(b",))
    def attempt(overrides: tuple[str, ...]) -> None:
        tried.append(overrides)
        train_in(folder, *overrides, output=not any("output_dir" in word for word in overrides))

    attempt()
    tally("inputs tried", len(tried))


FLAGS = (
    *("--foo", "--cfg nope", "--resolve", "--config-name nope", "--config-dir /nonexistent", "--config-path x", "-x"),
    *("--info nope", "--experimental-rerun x", "--multirun --run", "-sc", "--help", "--cfg job", "--version"),
)


def test_a_flag_works_or_is_refused(folder, tally):
    for flags in FLAGS:
        train_in(folder, flags=tuple(flags.split()))
    tally("inputs tried", len(FLAGS))


GLOBAL = "# @package _global_\n"
DEEP = "[" * 300 + "]" * 300
YAMLS: dict[str, str | bytes] = {
    "a tab": GLOBAL + "trainer:\n\tepochs: 3\n",
    "a bad indent": GLOBAL + "trainer:\n    epochs: 3\n  seed: 1\n",
    "a key twice": GLOBAL + "seed: 1\nseed: 2\n",
    "a list": GLOBAL + "- a\n- b\n",
    "a scalar": GLOBAL + "hello\n",
    "a number": "7\n",
    "nothing": "",
    "an open bracket": GLOBAL + "seed: [1, 2\n",
    "an unknown default": GLOBAL + "defaults:\n  - override /method: nope\n",
    "a number for defaults": "defaults: 7\n",
    "a number for a default": "defaults:\n  - 7\n",
    "itself": "defaults:\n  - x\n",
    "two in a default": GLOBAL + "defaults:\n  - override /method: dora\n    override /task: rte\n",
    "bytes": b"\xff\xfe\x00\x01",
    "latin-1": b"seed: \xe9\n",
    "an alias within itself": GLOBAL + "trainer: &a\n  x: *a\n",
    "an object": GLOBAL + "seed: !!python/object/apply:os.system ['true']\n",
    "a tag": GLOBAL + "seed: !foo 3\n",
    "two documents": GLOBAL + "seed: 1\n---\nseed: 2\n",
    "a package without a name": "# @package\nseed: 1\n",
    "a recursive value": GLOBAL + "seed: ${seed}\n",
    "a mapping for a setting": GLOBAL + "seed: {a: 1}\n",
    "a setting for a mapping": GLOBAL + "trainer: 7\n",
    "a list as a key": GLOBAL + "? [a]\n: 3\n",
    "NUL in output_dir": GLOBAL + 'output_dir: "a\\0b"\n',
    "a surrogate in output_dir": GLOBAL + 'output_dir: "\\uD800"\n',
    "two lines in output_dir": GLOBAL + 'output_dir: "a\\nb"\n',
    "a long output_dir": GLOBAL + f"output_dir: {'a' * 300}\n",
    "deep nesting": GLOBAL + f"backbone: {{architecture: {{a: {DEEP}}}}}\n",
    "a NaN that nothing reads": GLOBAL + "backbone: {learning_rates: {dora: .nan}}\n",
    "a set": GLOBAL + "backbone: {architecture: !!set {a, b}}\n",
    "a number of 5000 digits": GLOBAL + f"seed: {'9' * 5000}\n",
    "hydra's part": GLOBAL + "hydra: 7\n",
    "a good one": GLOBAL + "seed: 3\n",
}


def train_on(folder, text: str | bytes, output: bool = True) -> None:
    """`experiment=x`, which lies in a folder of the user's."""
    group = folder.parent / "conf" / "experiment"
    group.mkdir(parents=True, exist_ok=True)
    (group / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    train_in(folder, "experiment=x", flags=("--config-dir", str(group.parent)), output=output)


@pytest.mark.parametrize("what", YAMLS)
def test_a_yaml_file_is_read_or_refused(what, folder, tally):
    train_on(folder, YAMLS[what], output="output_dir" not in what)
    tally("inputs tried")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(GRAMMAR)
VALUE = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(SCALARS, SCALARS, max_size=2)


@st.composite
def yaml_files(draw: st.DrawFn) -> str:
    """A setting of any type, or broken at a place."""
    import yaml

    key, *others = draw(st.sampled_from(SETTINGS).filter(lambda chosen: chosen[0] not in (*SLOW, "output_dir")))
    value = draw(VALUE)
    for part in reversed(key.lstrip("+").split(".")):
        value = {part: value}
    default = f"defaults:\n  - override /method: {others[0].partition('=')[2]}\n" if others else ""
    text = GLOBAL + default + yaml.safe_dump(value, allow_unicode=draw(st.booleans()))
    if draw(st.sampled_from((False, False, True))):
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place]
            + draw(st.sampled_from(("\t", "\n", " ", "'", "{", "]", ":", "- ", "&a", "*a", "\x07", "#")))
            + text[place:]
        )
    return text


def test_a_yaml_value_runs_or_is_refused(folder, is_long, tally):
    tried = []

    @tries(8, 400, is_long)
    @given(yaml_files())
    def attempt(text: str) -> None:
        tried.append(text)
        train_on(folder, text.encode(errors="replace"))

    attempt()
    tally("inputs tried", len(tried))
