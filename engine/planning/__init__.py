"""What will be made, decided on integers before any data is read: outputs, tiles, files, memory."""
