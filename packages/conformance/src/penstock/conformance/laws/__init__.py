"""One module a kind, imported when a component of the kind is checked: `LAWS`, in the order in which they are run."""
