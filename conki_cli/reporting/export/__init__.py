"""Export of trained models and adapters: exported folders, their model cards, the Hugging Face hub."""
