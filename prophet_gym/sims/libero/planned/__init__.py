"""Scripts that plan: from the goal of a task to skills, from skills to actions."""
