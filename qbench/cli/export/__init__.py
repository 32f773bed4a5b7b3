"""The commands `export …`, a module each."""
