"""How a precision holds numbers, and what that does to a real tensor."""
