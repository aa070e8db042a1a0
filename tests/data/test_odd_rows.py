"""Whatever a row holds: it is kept, or dropped for a reason, and the stage goes on."""

import copy
import json
import random

from tests.data.broken_rows import PQ, SC, TWO, row
from tests.data.conftest import data_recipe, prepared, write_lines

ODD = (
    *(
        None,
        True,
        -1,
        0,
        3.5,
        1e308,
        float("nan"),
        float("inf"),
        10**30,
        -(10**400),
        "",
        " ",
        "x" * 100_000,
        "\0",
        "\u2028",
    ),
    *(
        "\ud83d",
        "a\ud83db.png",
        [],
        {},
        [[]],
        [None],
        {"bytes": "x"},
        {"path": 3},
        {"a": {"b": {"c": []}}},
        [1, 2, 3, 4],
    ),
    *(
        "<think>",
        "```",
        "{",
        "<|bbox_0|>",
        "<image>",
        json.dumps(PQ),
        "a.png",
        "cut.jpg",
        "folder",
        "empty.png",
        "../secret.png",
    ),
    *("/dev/zero", "https://example.org/a.png", "data:image/png;base64,!!", "images\\a.png", "a/" * 9999),
)


def key_paths(value, path=()):
    """The keys that lead to each value in `value`, itself too."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from key_paths(child, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


def odd_row(rng):
    """A sound row with one or two odd values anywhere in it, or in its verdict."""
    made = copy.deepcopy(
        rng.choice((row(SC), row(TWO), row(PQ, images=("b.png",)), row(SC, id="7", group="g", solution="sc")))
    )
    verdict = json.loads(made["messages"][1]["content"])
    if rng.random() < 0.5:
        verdict = changed(verdict, rng.choice(list(key_paths(verdict))), rng.choice(ODD))
        made["messages"][1]["content"] = json.dumps(verdict)
    if rng.random() < 0.7:
        made = changed(made, rng.choice(list(key_paths(made))), rng.choice(ODD))
    return made


def test_no_row_ends_the_stage(images, tmp_path):
    rng = random.Random(0)
    rows = [odd_row(rng) for _ in range(800)]
    sources = []
    for layout, suffix in (("spatialreward", "jsonl"), ("sharegpt", "json")):
        file = tmp_path / f"rows.{suffix}"
        write_lines(file, list(map(json.dumps, rows))) if suffix == "jsonl" else file.write_text(
            json.dumps(rows, indent=1)
        )
        sources.append(
            {"name": layout, "layout": layout, "path": str(file), "images": str(images), "splits": {"train": 1}}
        )
    done, report = prepared(data_recipe(tmp_path, sources, max_dropped=1.0))
    assert done.returncode == 0, done.stderr[-2000:]
    for source in report["sources"].values():
        assert source["in"] == len(rows) == source["kept"] + sum(source["dropped"].values())
        assert source["kept"] > 80 and len(source["dropped"]) > 15
