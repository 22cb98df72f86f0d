"""Class-incremental Fashion-MNIST: does it pay to grow when a class comes?"""
