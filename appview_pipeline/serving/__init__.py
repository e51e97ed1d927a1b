"""HTTP servers of ours: how they listen, what they allow clients, how they log and end. What they serve is not here."""
