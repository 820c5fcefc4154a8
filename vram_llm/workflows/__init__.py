"""What a user can do with the package, one file a use case: what the commands and the server call."""
