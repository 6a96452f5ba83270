"""What an env on a server costs over the same env here."""
