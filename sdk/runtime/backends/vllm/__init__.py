"""The decoder in vLLM, for servers: our encoders make the rows of a prompt, vLLM draws the tokens of the answer."""
