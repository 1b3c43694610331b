"""What is wrong with a rack and with the fabric: a pure comparison of planes."""
