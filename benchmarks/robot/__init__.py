"""Stand in for a robot of one's own by a small arm, and measure what an env of its recordings takes."""
