"""ExaBGP as a library: typed commands and events, a supervised child process, routes as desired state."""
