"""The leasequery server: a program of its own, which shares no code with the router's requestor."""
