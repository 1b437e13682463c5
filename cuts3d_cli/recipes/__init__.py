"""What needs several stages: self-training, and a whole recipe."""
