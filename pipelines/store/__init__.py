"""The store as a person meets it: what is here, what is on the remote, and how to move it."""
