"""What goes over the wire, as pure functions: JSON and SDP to events, commands to JSON and SDP, with limits."""
