"""From public layouts and synthesis to one canonical row (see `data.rows`)."""
