"""Trained models and adapters that travel: exported folders, their model cards, the Hugging Face hub."""
