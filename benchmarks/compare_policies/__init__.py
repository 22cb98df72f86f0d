"""Every policy on two data sets, each beside its own controls."""
