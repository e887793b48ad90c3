"""What writes the answers: policy backends behind one protocol, their versions and their traffic."""
