"""What training minimises: one module per objective."""
