"""One reader a public layout; `data.readers.raw` says, with an example, what one yields and states."""

from types import ModuleType

from data.readers import columns, editreward, editscore, sharegpt, spatialreward

# Layout, as recipes name it -> its module.
READERS: dict[str, ModuleType] = {
    "spatialreward": spatialreward,
    "editscore": editscore,
    "editreward": editreward,
    "sharegpt": sharegpt,
    "datasets": columns,
}
