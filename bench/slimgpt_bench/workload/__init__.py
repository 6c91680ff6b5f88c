"""What a server is asked: lengths of prompts and answers, their texts, and when they arrive."""
