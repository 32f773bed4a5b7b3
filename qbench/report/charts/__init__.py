"""The pictures of a report: each is made of records or of a table, and shows what a table has."""
