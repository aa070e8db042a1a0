"""Planning, speed measurements and the tiny base. Nothing outside this folder imports it."""
