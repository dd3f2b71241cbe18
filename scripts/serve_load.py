"""Load on a running endpoint: `python scripts/serve_load.py http://127.0.0.1:8000 [requests=256] [at_once=64] [rounds=5]`.

Asks scripts/serve.py's server for its adapters, and sends requests of one sentence or pair of our grammar to adapters at
random: first one at a time, then `at_once` at a time, by turns. Prints requests a second of both ways, their ratio with its
95 % t interval over rounds, and how many answers differ between the ways by more than rounding.
"""

import asyncio
import random
import sys
import time
from typing import Any

from analysis.statistics import interval, summarize
from core.errors import UserError
from scripts.cli import command, parse, whole
from tasks.generated import generate

OPTIONS = {"requests": "256", "at_once": "64", "rounds": "5"}
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


async def load(address: str, count: int, at_once: int, rounds: int) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        adapters = await said_to(session.get(f"{address}/adapters"), address)
        await send(session, address, bodies(adapters, at_once, seed=-1), at_once)  # a warm-up
        speeds, wrong = [], 0
        for turn in range(rounds):
            asked = bodies(adapters, count, turn)
            alone, expected = await send(session, address, asked, 1)
            together, answers = await send(session, address, asked, at_once)
            wrong += sum(map(differ, expected, answers))
            speeds.append((count / alone, count / together))
    ratio = summarize([together / alone for alone, together in speeds])
    alone, together = (summarize(list(part)).median for part in zip(*speeds, strict=True))
    print(
        f"{len(adapters)} adapter{'s' * (len(adapters) > 1)}: {alone:.0f} requests/s one at a time, "
        f"{together:.0f} with {at_once} at once, "
        f"x {ratio.mean:.1f} ({interval(ratio) or 'no interval'}, n = {ratio.n}); {wrong} of {count * rounds} answers differ"
    )


@command
def main(words: list[str]) -> None:
    options, rest = parse(words, OPTIONS)
    if len(rest) != 1:
        raise UserError("name the server, as in scripts/serve_load.py http://127.0.0.1:8000")
    numbers = (whole(key, options[key] or "") for key in OPTIONS)
    asyncio.run(load(base(rest[0]), *numbers))


if __name__ == "__main__":
    sys.exit(main())
