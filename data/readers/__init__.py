"""One reader a public layout; `data.readers.raw` says, with an example, what one yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from data.readers import columns, editreward, editscore, sharegpt, spatialreward
from data.readers.raw import Raw

if TYPE_CHECKING:
    from data.recipe import Source


class Reader(NamedTuple):
    """A layout's `rows`, and what its module says of them: HAS_PROMPTS, USABLE_FOR_SFT (True by default), TAKES_COLUMNS."""

    rows: Callable[[Source], Iterator[Raw]]
    has_prompts: bool
    usable_for_sft: bool
    takes_columns: bool


# layout, as recipes name it -> its module
MODULES = {
    "spatialreward": spatialreward,
    "editscore": editscore,
    "editreward": editreward,
    "sharegpt": sharegpt,
    "datasets": columns,
}
READERS = {
    layout: Reader(
        module.rows,
        has_prompts=getattr(module, "HAS_PROMPTS", True),
        usable_for_sft=getattr(module, "USABLE_FOR_SFT", True),
        takes_columns=getattr(module, "TAKES_COLUMNS", False),
    )
    for layout, module in MODULES.items()
}
