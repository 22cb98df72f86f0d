"""What makes growth exact, from the recorded equations of a program."""
