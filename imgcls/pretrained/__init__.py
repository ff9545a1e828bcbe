"""Pretrained networks by name, and giving them a new head."""
