"""What other people's programs stored of their teachers, made into caches."""
