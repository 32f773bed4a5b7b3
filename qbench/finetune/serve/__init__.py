"""What becomes of a tuned model: attached, merged, or stored smaller."""
