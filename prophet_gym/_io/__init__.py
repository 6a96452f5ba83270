"""Files on a disk: written whole or not at all, read as untrusted data, every error naming file and key."""
