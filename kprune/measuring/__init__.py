"""What models and files cost, and how a pruned model compares."""
