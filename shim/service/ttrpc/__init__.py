"""ttrpc as containerd and its shims use it: unary calls over unix sockets, without gRPC."""
