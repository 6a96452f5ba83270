"""A small arm that stands in for a robot of one's own, and what it takes to make an env of its recordings."""
