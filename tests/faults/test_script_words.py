"""Bad words and files for the scripts: each script answers, or refuses in one sentence."""

import contextlib

import pytest
from support.command_line import compose

import scripts.export
import scripts.make_tables
import scripts.plan
import scripts.predict
import scripts.ranks
import scripts.results
import scripts.status
import train
from faults.inputs import SMALL, invoke, require_refusal

LONG = "a" * 300
FILES: dict[str, bytes] = {
    "empty.csv": b"",
    "bytes.csv": b"\xff\xfe",
    "good.csv": b"sentence\nhi\n",
    "nul.csv": b"sentence\na\0b\n",
    "long.csv": b"sentence\n" + b"a" * 200_000 + b"\n",
    "list.jsonl": b"[1]\n",
    "surrogate.jsonl": b'{"sentence": "\\ud800"}\n',
    "deep.jsonl": b"[" * 100_000,
    "text.parquet": b"x",
}
OWN_RUN = {
    scripts.predict: (
        *(
            (),
            ("",),
            ("a", "b"),
            ("\udcff",),
            ("a\0b",),
            ("a", "into=."),
            ("a", f"into={LONG}"),
            ("a", "into=/dev/null/x"),
        ),
        *((f"file={name}",) for name in (*FILES, ".", "none.csv")),
        *(("submission=s",), ("a", "data.path=nowhere"), ("rum=x", "a")),
    ),
    scripts.export: (
        (),
        ("into=o", "form=x"),
        ("into=/dev/null",),
        ("into=.",),
        (f"into={LONG}",),
        ("into=p", "form=adapter"),
    ),
    scripts.ranks: ((), ("a",), ("data.path=nowhere",), ("rum=x",)),
}
ALONE = {
    scripts.predict: ((), ("run=",), ("run=nowhere", "a"), ("run=/dev/null", "a"), (f"run={LONG}", "a")),
    scripts.export: ((), ("run=nowhere", "into=o")),
    scripts.ranks: ((), ("run=",), ("run=nowhere",), (f"run={LONG}",)),
    scripts.results: (("nowhere",), ("/dev/null",), (LONG,), ("runs",)),
    scripts.make_tables: (("nowhere",), ("/dev/null",), (LONG,)),
    scripts.status: (
        *(
            ("experiment=nope",),
            ("experiment=7",),
            ("seed=[1",),
            ("seed=",),
            ("seed=range(0,0)",),
            ("seed=1,1",),
            ("--foo",),
        ),
        *(
            ("method=lora,dora", "seed=a"),
            ("profile=offline", f"output_dir={LONG}"),
            ("profile=offline", "output_dir=runs"),
        ),
    ),
    scripts.plan: (
        *((), ("memory=",), ("memory=nan",), ("memory=1e400",), ("memory=1e300", "backbone=tiny"), ("memory",)),
        *(
            ("memory=40", *words)
            for words in (("base_bits=7",), ("experiment=7",), ("backbone=nope",), ("backbone=tiny",))
        ),
        *(
            ("memory=40", "backbone=tiny", f"backbone.architecture.{word}")
            for word in ("hidden_size=31", "hidden_size=1e9")
        ),
    ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = compose(*SMALL, f"output_dir={tmp_path_factory.mktemp('runs')}", "method.rank=4")
    train.train(settings)
    return settings.folder


@pytest.mark.parametrize("script", ALONE, ids=lambda script: script.__name__)
def test_a_script_answers_or_refuses(script, run, tally, tmp_path):
    for name, raw in FILES.items():
        (tmp_path / name).write_bytes(raw)
    cases = [*ALONE[script], *((f"run={run}", *words) for words in OWN_RUN.get(script, ()))]
    with contextlib.chdir(tmp_path):
        for words in cases:
            ended = invoke(script.main, *words)
            try:
                if ended.status:
                    require_refusal(ended)
                assert ended.status or not ended.err
            except AssertionError as error:
                error.add_note(f"words: {words!r}")
                raise
    assert not list(tmp_path.rglob("*.unfinished"))
    tally("inputs tried", len(cases))
