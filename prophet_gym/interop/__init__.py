"""Adapters for other libraries, one module each: it imports its library, and nothing imports them all."""
