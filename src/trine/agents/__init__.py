"""Control tasks: vectorized environments, actor and critic, trajectories and their advantages."""
