"""`penstock simulate`: all-to-all time and the cost of a training step, predicted from a routing trace."""
