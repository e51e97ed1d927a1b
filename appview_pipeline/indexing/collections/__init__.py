"""The collections of the index, a module each; every module declares a `COLLECTION`."""
