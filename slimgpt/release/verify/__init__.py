"""Is a checkpoint intact, and is what it claims true?"""
