"""`penstock compress`: a model made smaller step by step, each step a file with its bytes and its quality."""
