"""What every stage shares and no model is needed for: errors, recipes, fingerprints, folders that appear only when whole."""

import logging

# Two packages of extras, once installed, speak up in every process on a machine without a GPU, used or not: bitsandbytes looks
# on the Hub for a faster 4-bit kernel, and DeepSpeed says, on stdout, that it found a CPU.
_UNASKED = ("Failed to load CPU gemm", "Setting accelerator to CPU")
for _logger in ("bitsandbytes.backends.cpu.ops", "DeepSpeed"):
    logging.getLogger(_logger).addFilter(lambda record: not str(record.msg).startswith(_UNASKED))
