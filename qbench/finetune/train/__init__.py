"""Making a tuned model: from examples to an artifact."""
