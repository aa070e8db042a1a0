"""One verdict of a merged checkpoint behind `transformers serve`, through the library's own client.

python -m tools.rehearse.serve runs/NAME/merge runs/NAME/data
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from data.rows import load_rows
from spatial_edit_reward import load_spec, repair
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Request
from tests.endpoint import served


def main() -> None:
    model, data = Path(sys.argv[1]), Path(sys.argv[2])
    spec = load_spec(model)
    row = load_rows(data / "heldout.parquet", spec)[0]
    with served(model.absolute(), Path("logs") / "server.txt") as base_url:
        os.environ |= {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"}
        backend = open_backend("openai", str(model.absolute()), spec, batch_size=1)
        [(_, response)] = backend([Request("1", row["task"], row["instruction"], row["images"])])
    print(f"served: {response.text!r}; verdict: {repair(response.text, row['task']).verdict}")
    if not response.text:
        sys.exit("error: the served model gave no text")


if __name__ == "__main__":
    main()
