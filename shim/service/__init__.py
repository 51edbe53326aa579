"""The table of operations, the gRPC and ttrpc servers that it drives, and forwarding to shims."""
