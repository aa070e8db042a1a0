"""Planning, speed measurements and the tiny base. Nothing outside this folder imports it."""

import pipeline  # noqa: F401 - keeps the warnings quiet that it explains
