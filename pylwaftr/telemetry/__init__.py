"""What others are told about the router: metrics, and the log of bindings."""
