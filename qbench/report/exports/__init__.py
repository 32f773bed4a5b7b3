"""Records in the forms that other programs and places read."""
