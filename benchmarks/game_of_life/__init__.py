"""Is growing from the minimal network a cheaper way to learn the Game of Life?"""
