"""From a raw row to a canonical one: what a recipe lets be fixed is fixed, anything else drops the row."""
