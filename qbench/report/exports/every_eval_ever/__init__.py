"""Records in the form of Every Eval Ever, a common store of evaluations: schema 0.3.0."""
