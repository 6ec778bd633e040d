"""What happens at an epoch's end."""
