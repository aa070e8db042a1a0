"""What the stages share: recipes, output folders and what they were made from, distribution, checkpoints."""

import logging

# Two packages of extras, once installed, log a warning at import in every process without a GPU, used or not: bitsandbytes
# looks on the Hub for a faster 4-bit kernel, and DeepSpeed writes to stdout that it uses the CPU.
_NOISY = ("Failed to load CPU gemm", "Setting accelerator to CPU")
for _logger in ("bitsandbytes.backends.cpu.ops", "DeepSpeed"):
    logging.getLogger(_logger).addFilter(lambda record: not str(record.msg).startswith(_NOISY))
