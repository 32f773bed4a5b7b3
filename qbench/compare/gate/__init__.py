"""From rules and two sets of records to an outcome."""
