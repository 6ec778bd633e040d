"""What a sweep does around its jobs: look ahead, take up again, keep count, sum up."""
