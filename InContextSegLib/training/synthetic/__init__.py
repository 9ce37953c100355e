"""Invented tasks to train on."""
