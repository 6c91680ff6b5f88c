"""What a document must look like, as pydantic models; ``schema-1.json`` is made from them.

Keys may be added to what is described here, and every value that is described must be there.
"""
