"""Records, plans and outcomes as pages, tables and files. Never torch."""
