"""What a member of a family can ask for, by the names of its parameters."""
