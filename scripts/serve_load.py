"""Load on a running endpoint: `python scripts/serve_load.py http://127.0.0.1:8000 [requests=256] [at_once=64] [rounds=5]`.

Asks scripts/serve.py's server for its adapters, and sends requests of one sentence or pair of our grammar to adapters at
random: first one at a time, then `at_once` at a time, by turns. Prints requests a second of both ways, their ratio with its
95 % t interval over rounds, and how many answers differ between the ways by more than rounding.

Writes a record to `records/endpoint/`, and the table `endpoint` to `into=runs/measured` (with `into=paper_tables`,
`make_tables.py` writes it, too).
"""

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

from analysis.endpoint import FOLDER, differing, rate, ratio, table
from analysis.statistics import interval
from core.errors import UserError
from core.io import write_json
from experiments.config import file_name
from scripts.cli import command, parse, whole
from tasks.generated import generate

NUMBERS = {"requests": "256", "at_once": "64", "rounds": "5"}
OPTIONS = {**NUMBERS, "into": "runs/measured"}
ROUNDING = 1e-3  # of a probability or a score

Answer = dict[str, Any]


def bodies(adapters: dict[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """Requests to adapters at random, each with one text of as many columns as the adapter takes."""
    draw = random.Random(seed)
    sentences = generate("cola", "validation", 200, seed)["sentence"]
    names = draw.choices(sorted(adapters), k=count)
    texts = [[draw.choice(sentences) for _ in adapters[name]["columns"]] for name in names]
    return [{"adapter": name, "texts": [text]} for name, text in zip(names, texts, strict=True)]


def base(word: str) -> str:
    """The server's address: `127.0.0.1:8000` is one, and so is what scripts/serve.py prints."""
    address = word if "://" in word else f"http://{word}"
    return address.rstrip("/").removesuffix("/classify")


async def said_to(request: Any, address: str) -> dict[str, Any]:
    """The server's answer to a request.

    Raises:
        UserError: there is none, it is an error, or another server's.
    """
    import aiohttp

    try:
        async with request as response:
            said = await response.json()
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        raise UserError(f"nothing answers at {address}: start scripts/serve.py, which prints its address") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise UserError(f"{address} is not the address that scripts/serve.py prints: give that one") from error
    if response.status != 200:
        raise UserError(f"{address} answers {response.status}: {said['error']}")
    return said


async def send(session: Any, address: str, asked: list[dict[str, Any]], at_once: int) -> tuple[float, list[Answer]]:
    """Seconds that all requests took, at most `at_once` under way, and their answers."""
    free = asyncio.Semaphore(at_once)

    async def one(body: dict[str, Any]) -> Answer:
        async with free:
            said = await said_to(session.post(f"{address}/classify", json=body), address)
        return said["answers"][0]

    began = time.perf_counter()
    answers = await asyncio.gather(*map(one, asked))
    return time.perf_counter() - began, list(answers)


def differ(one: Answer, other: Answer) -> bool:
    """Whether two answers to the same text differ by more than rounding."""
    pairs = [(one["probabilities"][k], p) for k, p in other["probabilities"].items()] if "label" in one else []
    pairs += [(one["score"], other["score"])] if "score" in one else []
    return any(abs(a - b) > ROUNDING for a, b in pairs)


async def load(address: str, count: int, at_once: int, rounds: int) -> dict[str, Any]:
    """The measurement's record."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        adapters = await said_to(session.get(f"{address}/adapters"), address)
        about = await said_to(session.get(f"{address}/about"), address)
        await send(session, address, bodies(adapters, at_once, seed=-1), at_once)  # a warm-up
        turns = []
        for turn in range(rounds):
            asked = bodies(adapters, count, turn)
            alone, expected = await send(session, address, asked, 1)
            together, answers = await send(session, address, asked, at_once)
            differ_in = sum(map(differ, expected, answers))
            turns.append({"seconds_alone": alone, "seconds_together": together, "differ": differ_in})
    settings = {"adapters": len(adapters), "requests": count, "at_once": at_once}
    return {"endpoint": 1, **about, **settings, "rounds": turns}


def verdict(record: dict[str, Any]) -> str:
    """The result in words."""
    times = ratio(record)
    return (
        f"{record['adapters']} adapter{'s' * (record['adapters'] > 1)}: {rate(record, 'alone'):.0f} requests/s one at a "
        f"time, {rate(record, 'together'):.0f} with {record['at_once']} at once, "
        f"x {times.mean:.1f} ({interval(times) or 'no interval'}, n = {times.n}); {differing(record)} answers differ"
    )


def keep(record: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the record, and the table of all that lie beside it."""
    records = folder / "records" / FOLDER.name
    records.mkdir(parents=True, exist_ok=True)
    device = record["provenance"]["hardware"]["device"]
    path = records / f"{file_name(record['backbone'])}-{record['adapters']}-at_once{record['at_once']}-{device}.json"
    write_json(path, record)
    return [path, *table(records).write(folder)]


@command
def main(words: list[str]) -> None:
    options, rest = parse(words, OPTIONS)
    if len(rest) != 1:
        raise UserError("name the server, as in scripts/serve_load.py http://127.0.0.1:8000")
    numbers = (whole(key, options[key] or "") for key in NUMBERS)
    record = asyncio.run(load(base(rest[0]), *numbers))
    print(verdict(record))
    print(*keep(record, Path(options["into"] or "")), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
