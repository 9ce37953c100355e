"""Small things that several panels show."""
