"""What requests bring: text to tokens, images, grammars still being compiled."""
