"""The package's use cases, one file each. Commands and the server call them."""
