"""From settings to the processes of every node: choosing, opening, starting, and the node program."""
