"""Load rows from files, folders and the Hugging Face Hub."""
