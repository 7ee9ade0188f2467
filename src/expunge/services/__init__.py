"""Clients of network services: chat endpoints and the hub."""
