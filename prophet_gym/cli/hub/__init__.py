"""Commands about the Hub."""
