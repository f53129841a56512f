"""`make test-env`: checks of this machine, of docker, and inside a node's container."""
