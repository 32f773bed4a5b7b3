"""How a tuned model is served: attached, merged, or stored smaller."""
