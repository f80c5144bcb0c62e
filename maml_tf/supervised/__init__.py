"""Meta-learning of supervised tasks: the learner, its evaluation, its baselines, its export."""
