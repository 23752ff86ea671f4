"""What an agent has written, held by descriptors until a checkpoint has it."""
