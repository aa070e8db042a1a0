"""One reader per public layout: `rows(source)` yields a source's rows as they are, one after another, none of them judged."""
