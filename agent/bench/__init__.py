"""Comparing planners: tasks, equal budgets, episodes that can be resumed, statistics and a report."""
