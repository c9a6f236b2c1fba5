"""Agents of control tasks: environments played side by side, actor and critic, and what a rollout teaches them."""
