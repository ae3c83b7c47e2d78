"""What replies are worth."""
