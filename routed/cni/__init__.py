"""The container network interface: records, codec, error codes and the socket server behind the shim."""
