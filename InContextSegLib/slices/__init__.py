"""Between volumes and the pictures that a network sees."""
