"""This host's certificate from an ACME server. Started by mirror-certificate beside it."""
