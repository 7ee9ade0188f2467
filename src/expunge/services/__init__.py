"""Clients for network services: chat endpoints and the Hugging Face Hub."""
