"""What training minimises: one module an objective."""
