"""The gRPC API: service and typed client."""
